"""Causal LMs and reward models loaded from a folder or a hub id, to be trained or frozen.

Trained weights are float32 whatever the checkpoint's type, since AdamW at a learning rate of 1e-6 changes no bfloat16
weight. Frozen models are stored in the computation's type. A reward model's head and score offset are never initialised
silently.
"""

import copy
import json
from pathlib import Path

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from chatml import control
from config.sections import Model
from engine.dist.devices import compute_dtype
from engine.dist.ranks import is_main_process
from engine.errors import RunError, first_line
from engine.forward.attention import implementation_of
from engine.models.adapters import base_of, is_adapter, merge_adapter
from engine.models.architecture import (
    causal_class,
    classification_class,
    is_foreign_reward_model,
)
from engine.models.checkpoint import from_pretrained, stored_type
from engine.models.dropout import set_dropout, switch_off_noise
from engine.models.four_bits import settle_in_4bit
from engine.models.generation_config import mend_generation_config, refuse_invalid_generation_config
from engine.models.self_test import self_test
from engine.models.vocabulary import fit_embeddings, stop_at_end_of_turn

# The keys that make a configuration that of a reward model, and the file that holds them beside an adapter.
SCALAR_KEYS, SCALAR_HEAD = ("score_offset", "score_token_id"), "scalar_head.json"
HEAD = "score.weight"


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

    Raises RunError for a path without a model, for models that cannot be trained here, and for checkpoints that lack
    weights.
    """
    config = load_config(base_of(path), model)
    set_dropout(config, model.attention_dropout if trained else 0.0)
    model_class, dtype = causal_class(config, path, in_4bit=in_4bit), torch.float32
    if in_4bit and not trained:
        dtype = compute_dtype(model)
    elif as_stored and not is_adapter(path) and config.get_text_config().vocab_size >= len(tokenizer):
        dtype = stored_type(path, model)
    refuse_invalid_generation_config(base_of(path), model.revision)
    loaded, _ = from_pretrained(model_class, base_of(path), config, model, in_4bit, dtype)
    mend_generation_config(loaded, base_of(path))
    if in_4bit:
        return checked(settle_in_4bit(loaded, tokenizer, path), path, model)
    fit_embeddings(loaded, tokenizer)
    if is_adapter(path):
        loaded = merge_adapter(loaded, path)
    stop_at_end_of_turn(loaded, tokenizer)
    return checked(settle(loaded, model, trained, device), path, model)


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
    set_dropout(config, model.attention_dropout if trained else 0.0)
    dtype = stored_type(path, model) if as_stored and not is_adapter(path) else torch.float32
    model_class = classification_class(config, path, in_4bit=in_4bit)
    loaded, missing = from_pretrained(model_class, base_of(path), config, model, in_4bit, dtype, may_lack=[HEAD])
    if in_4bit and not missing:
        return checked(settle_in_4bit(loaded, tokenizer, path), path, model)
    if is_adapter(path):
        fit_embeddings(loaded, tokenizer)
        loaded = merge_adapter(loaded, path)
    elif missing:
        raise RunError(
            f"{path} lacks {', '.join(missing)}: a reward model without its head would score at random; "
            "copy the whole folder that make rm wrote"
        )
    return checked(settle(loaded, model, trained, device), path, model)


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

    The head is drawn from the model's own initial distribution (zero mean) and is a function of `seed`. A reward model
    that another tool trained (a sequence classification with one label) keeps its head.
    """
    plain = load_config(base_of(path), model)
    foreign = is_foreign_reward_model(plain) and not is_adapter(path)
    if in_4bit or foreign:
        keeps_head = foreign and plain.num_labels == 1
        if foreign and is_main_process():
            print(foreign_head_note(path, plain), flush=True)
        return _scalar_of_checkpoint(path, plain, model, tokenizer, seed, in_4bit, keeps_head)
    causal = load_causal(path, model, tokenizer, trained=True)
    config = copy.deepcopy(causal.config)
    model_class = classification_class(config, path, in_4bit=False)
    config.num_labels, config.score_offset, config.score_token_id = 1, 0.0, control(tokenizer).im_end
    torch.manual_seed(seed)
    scalar = model_class(config)
    getattr(scalar, scalar.base_model_prefix).load_state_dict(causal.base_model.state_dict())
    scalar.set_attn_implementation(implementation_of(model.attention))
    return checked(scalar, path, model)


def foreign_head_note(path: str, config: PretrainedConfig) -> str:
    """Return what happens to the head of a sequence classification that another tool wrote."""
    if config.num_labels == 1:
        return (
            f"{path} is a reward model of another tool: its head is kept, and its score is read at the last <|im_end|>"
        )
    return f"{path} has a head of {config.num_labels} labels; a new one of one label takes its place"


def _scalar_of_checkpoint(
    path: str, config: PretrainedConfig, model: Model, tokenizer: PreTrainedTokenizerBase, seed: int, in_4bit: bool,
    keeps_head: bool,
) -> PreTrainedModel:  # fmt: skip
    """Load a checkpoint straight into the class with a scalar head, which is the checkpoint's own or a new one."""
    model_class = classification_class(config, path, in_4bit=in_4bit)
    config.num_labels, config.score_offset, config.score_token_id = 1, 0.0, control(tokenizer).im_end
    set_dropout(config, model.attention_dropout)
    torch.manual_seed(seed)
    scalar, _ = from_pretrained(model_class, path, config, model, in_4bit, may_lack=() if keeps_head else [HEAD])
    if in_4bit:
        return checked(settle_in_4bit(scalar, tokenizer, path), path, model)
    fit_embeddings(scalar, tokenizer)
    return checked(settle(scalar, model, True, "cpu"), path, model)


def load_config(path: str, model: Model) -> PretrainedConfig:
    """Load the configuration of a model folder or hub id; RunError if there is none."""
    try:
        return AutoConfig.from_pretrained(path, revision=model.revision)
    except (OSError, ValueError) as error:
        raise RunError(f"no model at {path} ({first_line(error)}); give a model folder or a hub id") from None


def settle(loaded: PreTrainedModel, model: Model, trained: bool, device: torch.device | str) -> PreTrainedModel:
    """Set type, mode and device of a model that was just loaded."""
    if trained:
        return loaded.to(device).train().requires_grad_(True)  # merging an adapter has frozen all
    # Buffers that no checkpoint holds, such as the frequencies of rotary positions, stay float32 in plain loading too.
    computed = [
        (module, name, buffer)
        for module in loaded.modules()
        for name, buffer in module._buffers.items()
        if name in module._non_persistent_buffers_set and buffer is not None
    ]
    loaded.to(device, compute_dtype(model)).eval().requires_grad_(False)
    for module, name, buffer in computed:
        module._buffers[name] = buffer.to(device)
    return loaded


def checked(loaded: PreTrainedModel, path: str, model: Model) -> PreTrainedModel:
    """Switch off what a family still has of dropout; RunError where the model is not computed as its class says.

    The padding token's embedding row learns as any other: no row is padded in training, and some models pad with a
    token that conversations have (SmolLM2 with <|im_end|>).
    """
    loaded.get_input_embeddings().padding_idx = None
    switch_off_noise(loaded, keep_attention=model.attention_dropout > 0)
    self_test(loaded, path)
    return loaded
