"""Models from a folder or a hub id, to be trained or frozen, and their folders written whole.

Trained weights are float32 whatever the checkpoint's type (AdamW at a learning rate of 1e-6 moves no bfloat16 weight);
frozen models are held in the compute type. A reward model's head and score offset are never made up silently.
"""

import copy
import json
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, get_checkpoint_shard_files

from chatml import control
from config.sections import Model
from engine.dist.devices import compute_dtype
from engine.errors import RunError, first_line
from engine.files import durable
from engine.forward.logprobs import with_logprobs
from engine.forward.packed import attention_for
from engine.forward.scalar_head import scalar_class
from engine.models.adapters import base_of, is_adapter, merge_adapter, outgrew_its_base
from engine.models.four_bits import four_bit_arguments, settle_in_4bit
from engine.models.vocabulary import fit_embeddings, stop_at_end_of_turn

# What makes a configuration that of a reward model, and where it stands beside an adapter.
SCALAR_KEYS, SCALAR_HEAD = ("score_offset", "score_token_id"), "scalar_head.json"
# safetensors' names of half types.
STORED = {"BF16": torch.bfloat16, "F16": torch.float16}


def load_causal(
    path: str,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    *,
    trained: bool,
    in_4bit: bool = False,
    as_stored: bool = False,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """A causal LM with a row for every token of `tokenizer`; an adapter folder is merged into its base.

    Trained: float32, in training mode. Frozen: compute type, no gradients, evaluation mode. In 4 bits: what stays whole
    is of either type, all is frozen, but in training mode, and on its device already. As stored: where nothing has to
    be added to the weights, they keep the type of their files and are read from these as they are needed, so that
    processes of a machine have them once.
    """
    config = load_config(base_of(path), model)
    refuse_unknown_logits(config)
    config.attention_dropout = model.attention_dropout if trained else 0.0
    model_class, dtype = with_logprobs(AutoModelForCausalLM._model_mapping[type(config)]), torch.float32
    if in_4bit and not trained:
        dtype = compute_dtype(model)
    elif as_stored and not is_adapter(path) and config.get_text_config().vocab_size >= len(tokenizer):
        dtype = stored_type(path, model)
    loaded, _ = from_pretrained(model_class, base_of(path), config, model, in_4bit, dtype)
    if in_4bit:
        return settle_in_4bit(loaded, tokenizer, path)
    fit_embeddings(loaded, tokenizer)
    if is_adapter(path):
        loaded = merge_adapter(loaded, path)
    stop_at_end_of_turn(loaded, tokenizer)
    return settle(loaded, model, trained, device)


def load_scalar(
    path: str,
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    *,
    trained: bool,
    in_4bit: bool = False,
    as_stored: bool = False,
    device: torch.device | str = "cpu",
) -> PreTrainedModel:
    """A reward model that has been trained: head and offset come with it, or RunError says what is missing."""
    config = scalar_config(path, model)
    if config is None:
        raise RunError(f"{path} is no reward model: it has no score_offset; make one with: make rm")
    config.attention_dropout = model.attention_dropout if trained else 0.0
    dtype = stored_type(path, model) if as_stored and not is_adapter(path) else torch.float32
    loaded, missing = from_pretrained(scalar_class(config), base_of(path), config, model, in_4bit, dtype)
    if in_4bit and not missing:
        return settle_in_4bit(loaded, tokenizer, path)
    if is_adapter(path):
        fit_embeddings(loaded, tokenizer)
        loaded = merge_adapter(loaded, path)
    elif missing:
        raise RunError(
            f"{path} lacks {', '.join(missing)}: a reward model without its head would score at random; "
            "take the folder that make rm wrote, whole"
        )
    return settle(loaded, model, trained, device)


def scalar_config(path: str, model: Model) -> PretrainedConfig | None:
    """The configuration of a model with a scalar head; None if what `path` holds does not say that it has one."""
    config = load_config(base_of(path), model)
    beside = Path(path) / SCALAR_HEAD
    if is_adapter(path) and beside.exists():
        config.num_labels = 1
        config.update(json.loads(beside.read_text(encoding="utf-8")))
    return config if config.to_dict().keys() >= set(SCALAR_KEYS) else None


def new_scalar(
    path: str, model: Model, tokenizer: PreTrainedTokenizerBase, seed: int, *, in_4bit: bool = False
) -> PreTrainedModel:
    """A base model's body with a fresh scalar head (zero mean, the model's own initial spread), to be trained."""
    causal = None if in_4bit else load_causal(path, model, tokenizer, trained=True)
    config = copy.deepcopy(causal.config) if causal else load_config(path, model)
    config.num_labels, config.score_offset, config.score_token_id = 1, 0.0, control(tokenizer).im_end
    torch.manual_seed(seed)
    if in_4bit:
        config.attention_dropout = model.attention_dropout
        scalar, _ = from_pretrained(scalar_class(config), path, config, model, in_4bit)
        return settle_in_4bit(scalar, tokenizer, path)
    scalar = scalar_class(config)(config)
    getattr(scalar, scalar.base_model_prefix).load_state_dict(causal.base_model.state_dict())
    scalar.set_attn_implementation(attention_for(model.attention))
    return scalar


def load_config(path: str, model: Model) -> PretrainedConfig:
    """The configuration of a model folder or of a hub id; RunError if there is none to load."""
    try:
        return AutoConfig.from_pretrained(path, revision=model.revision)
    except (OSError, ValueError) as error:
        raise RunError(f"no model at {path} ({first_line(error)}); give a model folder or a hub id") from None


def refuse_unknown_logits(config: PretrainedConfig) -> None:
    """Our log-probabilities are softmax(head(hidden)); models that do more to their logits would come out wrong."""
    values = config.get_text_config().to_dict()
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier"):
        if values.get(key) not in (None, 1.0):
            raise RunError(f"{config.model_type} models transform their logits ({key}); plumbline does not do that yet")


def from_pretrained(
    model_class: type[PreTrainedModel],
    path: str,
    config: PretrainedConfig,
    model: Model,
    in_4bit: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[PreTrainedModel, list[str]]:
    """The model, its linear layers in 4 bits if wanted, and the names of weights that its checkpoint lacks."""
    try:
        loaded, report = model_class.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            revision=model.revision,
            attn_implementation=attention_for(model.attention),
            output_loading_info=True,
            **(four_bit_arguments(model) if in_4bit else {}),
        )
    except ImportError as error:
        raise RunError(
            f"load_in_4bit=true: {first_line(error)}; install it with .venv/bin/pip install bitsandbytes, or leave "
            "load_in_4bit out"
        ) from None
    except OSError as error:
        raise RunError(f"no weights at {path} ({first_line(error)}); give a model folder or a hub id") from None
    return loaded, sorted(report["missing_keys"])


def stored_type(path: str, model: Model) -> torch.dtype:
    """The type of all numbers in a checkpoint's safetensors files; float32, which holds any, if there are several."""

    def here(name: str) -> str | None:
        return cached_file(path, name, revision=model.revision, _raise_exceptions_for_missing_entries=False)

    files, index = [here(SAFE_WEIGHTS_NAME)], here(SAFE_WEIGHTS_INDEX_NAME)
    if index is not None:
        files, _ = get_checkpoint_shard_files(path, index, revision=model.revision)
    found = set()
    for file in filter(None, files):
        with safe_open(file, "pt") as tensors:
            found |= {tensors.get_slice(name).get_dtype() for name in tensors.offset_keys()}
    return STORED[found.pop()] if len(found) == 1 and found <= STORED.keys() else torch.float32


def settle(loaded: PreTrainedModel, model: Model, trained: bool, device: torch.device | str) -> PreTrainedModel:
    """Type, mode and device of a model that was just loaded."""
    if trained:
        return loaded.to(device).train().requires_grad_(True)  # merging an adapter leaves all frozen
    return loaded.to(device, compute_dtype(model)).eval().requires_grad_(False)


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    merge: bool = False,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write what plain `from_pretrained` loads: weights, configuration, tokenizer, template, generation config.

    LoRA is saved as an adapter, or merged: if `merge` says so, or where the base lacks rows that the tokenizer needs.
    `weights` are the model's own, whole, where it holds only a share of them.
    """
    if model.can_generate():
        stop_at_end_of_turn(model, tokenizer)  # trainers put the tokenizer's own end there
    model.config.use_cache = True  # trainers switch it off, and the switch would go into config.json
    if isinstance(model, PeftModel) and (merge or outgrew_its_base(model)):
        model, weights = merged(model, tokenizer, weights, folder), None
    model.save_pretrained(folder, state_dict=weights)
    if isinstance(model, PeftModel):
        # A config.json beside an adapter would make transformers take the folder for a whole model.
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        else:
            write_scalar_head(model, folder)
    tokenizer.save_pretrained(folder)


def merged(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, weights: dict[str, torch.Tensor] | None, near: Path
) -> PreTrainedModel:
    """The model with its adapter merged; where it is sharded, a base loaded anew with the adapter in `weights`."""
    if weights is None:
        low = any(weight.dtype != torch.float32 for weight in model.parameters())
        return (model.to("cpu").float() if low else model).merge_and_unload()
    with tempfile.TemporaryDirectory(dir=near.parent) as adapter:
        model.save_pretrained(adapter, state_dict=weights)
        load = load_causal if model.can_generate() else load_scalar
        if load is load_scalar:
            write_scalar_head(model, Path(adapter))
        whole = load(adapter, Model(path=adapter, dtype="float32"), tokenizer, trained=False)
        whole.config = model.config
        return whole


def write_scalar_head(model: PeftModel, folder: Path) -> None:
    """What makes an adapter one of a reward model."""
    durable.write_json(folder / SCALAR_HEAD, {key: getattr(model.config, key) for key in SCALAR_KEYS})
