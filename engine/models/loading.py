"""Causal LMs and reward models loaded from a folder or a hub id, to be trained or frozen.

Trained weights are float32 whatever the checkpoint's type, since AdamW at a learning rate of 1e-6 changes no bfloat16
weight. Frozen models are stored in the computation's type. A reward model's head and score offset are never initialised
silently.
"""

import copy
import json
from pathlib import Path

import torch
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
from engine.forward.attention import implementation_of
from engine.forward.logprobs import with_logprobs
from engine.forward.scalar_head import scalar_class
from engine.models.adapters import base_of, is_adapter, merge_adapter
from engine.models.four_bits import four_bit_arguments, settle_in_4bit
from engine.models.vocabulary import fit_embeddings, stop_at_end_of_turn

# The keys that make a configuration that of a reward model, and the file that holds them beside an adapter.
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
    """Load a causal LM with an embedding row for every token of `tokenizer`; an adapter folder is merged into its base.

    A `trained` model is float32 and in training mode, a frozen one has the computation's type, no gradients and is in
    evaluation mode. `in_4bit`: linear layers are quantised, all weights are frozen, the mode is training, and the model
    is on its device already. `as_stored`: where no rows have to be added, weights keep the type of their files and are
    memory-mapped, so that the ranks of a machine share them.

    Raises RunError for a path without a model, and for models that change their logits after the head.
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
    """Load a trained reward model with its head and score offset; the arguments are those of `load_causal`.

    Raises RunError if its head or offset is missing.
    """
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
    """Return the configuration of a model with a scalar head; None if the model in `path` has none."""
    config = load_config(base_of(path), model)
    beside = Path(path) / SCALAR_HEAD
    if is_adapter(path) and beside.exists():
        config.num_labels = 1
        config.update(json.loads(beside.read_text(encoding="utf-8")))
    return config if config.to_dict().keys() >= set(SCALAR_KEYS) else None


def new_scalar(
    path: str, model: Model, tokenizer: PreTrainedTokenizerBase, seed: int, *, in_4bit: bool = False
) -> PreTrainedModel:
    """Return a base model's body with a new scalar head, to be trained.

    The head is drawn from the model's own initial distribution (zero mean) and is a function of `seed`.
    """
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
    scalar.set_attn_implementation(implementation_of(model.attention))
    return scalar


def load_config(path: str, model: Model) -> PretrainedConfig:
    """Load the configuration of a model folder or hub id; RunError if there is none."""
    try:
        return AutoConfig.from_pretrained(path, revision=model.revision)
    except (OSError, ValueError) as error:
        raise RunError(f"no model at {path} ({first_line(error)}); give a model folder or a hub id") from None


def refuse_unknown_logits(config: PretrainedConfig) -> None:
    """Raise RunError for models that scale or cap their logits: our log-probabilities are softmax(head(hidden))."""
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
    """Load a model, in 4 bits if wanted; return it and the sorted names of weights that its checkpoint lacks."""
    try:
        loaded, report = model_class.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            revision=model.revision,
            attn_implementation=implementation_of(model.attention),
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
    """Return the type of the weights in a checkpoint's safetensors files; float32 where they have several types."""

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
    """Set type, mode and device of a model that was just loaded."""
    if trained:
        return loaded.to(device).train().requires_grad_(True)  # merging an adapter has frozen all
    return loaded.to(device, compute_dtype(model)).eval().requires_grad_(False)
