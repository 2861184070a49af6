"""Load causal LMs and reward models from a folder or a hub id, for training or frozen.

Trained weights are float32 whatever the checkpoint's dtype, because AdamW at a learning rate of 1e-6 changes no
bfloat16 weight. Frozen models are stored in the compute dtype. A missing head or score offset of a reward model is an
error, never initialised silently.
"""

import copy
import json
from pathlib import Path
from typing import cast

import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from chatml import control
from config.sections import Model
from engine.compat import non_persistent_buffers
from engine.dist.devices import compute_dtype, move
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
from engine.models.four_bits import prepare_4bit_base
from engine.models.generation_config import refuse_invalid_generation_config, repair_generation_config
from engine.models.self_test import self_test
from engine.models.vocabulary import fit_embeddings, stop_at_end_of_turn

# Configuration keys that mark a reward model, and the file that stores them in an adapter folder.
SCALAR_KEYS, SCALAR_HEAD = ("score_offset", "score_token_id"), "scalar_head.json"
HEAD_WEIGHT = "score.weight"


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
    """Load a causal LM with an embedding row for every token of `tokenizer`; merge an adapter folder into its base.

    Args:
        path: a model folder, an adapter folder or a hub id.
        model: the recipe's section, for dtype, attention and revision.
        trained: return float32 weights (see `as_stored`) in training mode; else the compute dtype, no gradients,
            evaluation mode.
        in_4bit: quantise linear layers, freeze all weights and set training mode; ignores `device`.
        as_stored: keep the weights' stored dtype and memory-map them if no rows have to be added, so that the ranks of
            a machine share the memory. Trained weights become float32 in `engine.dist.shard_model.shard_model`.

    Raises RunError if `path` has no model, if the model cannot be trained here, or if weights are missing.
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
    repair_generation_config(loaded, base_of(path))
    if in_4bit:
        return finish_loading(prepare_4bit_base(loaded, tokenizer, path), path, model)
    fit_embeddings(loaded, tokenizer)
    if is_adapter(path):
        loaded = merge_adapter(loaded, path)
    stop_at_end_of_turn(loaded, tokenizer)
    return finish_loading(set_dtype_and_mode(loaded, model, trained, device), path, model)


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

    Raises RunError as `load_causal` does, and if the head or the score offset is missing.
    """
    config = scalar_config(path, model)
    if config is None:
        raise RunError(f"{path} is not a reward model: it has no score_offset; train one with: make rm")
    set_dropout(config, model.attention_dropout if trained else 0.0)
    dtype = stored_type(path, model) if as_stored and not is_adapter(path) else torch.float32
    model_class = classification_class(config, path, in_4bit=in_4bit)
    loaded, missing = from_pretrained(model_class, base_of(path), config, model, in_4bit, dtype, may_lack=[HEAD_WEIGHT])
    if in_4bit and not missing:
        return finish_loading(prepare_4bit_base(loaded, tokenizer, path), path, model)
    if is_adapter(path):
        fit_embeddings(loaded, tokenizer)
        loaded = merge_adapter(loaded, path)
    elif missing:
        raise RunError(
            f"{path} lacks {', '.join(missing)}: a reward model without its head would score at random; "
            "copy the whole folder that make rm wrote"
        )
    return finish_loading(set_dtype_and_mode(loaded, model, trained, device), path, model)


def scalar_config(path: str, model: Model) -> PretrainedConfig | None:
    """Return the configuration of the reward model in `path`; None if it has no scalar head."""
    config = load_config(base_of(path), model)
    beside = Path(path) / SCALAR_HEAD
    if is_adapter(path) and beside.exists():
        config.num_labels = 1
        config.update(json.loads(beside.read_text(encoding="utf-8")))
    return config if config.to_dict().keys() >= set(SCALAR_KEYS) else None


def new_scalar(
    path: str, model: Model, tokenizer: PreTrainedTokenizerBase, seed: int, *, in_4bit: bool = False
) -> PreTrainedModel:
    """Return a base model's body with a new scalar head, for training.

    The head is initialised by the model's class (zero mean) and depends on `seed` alone. A reward model from another
    tool (a sequence classification with one label) keeps its head.
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
    return finish_loading(scalar, path, model)


def foreign_head_note(path: str, config: PretrainedConfig) -> str:
    """Return a line that says whether the head of another tool's sequence classification is kept or replaced."""
    if config.num_labels == 1:
        return (
            f"{path} is a reward model from another tool: its head is kept, and its score is read at the last "
            "<|im_end|>"
        )
    return f"{path} has a head with {config.num_labels} labels; it is replaced by a new head with one label"


def _scalar_of_checkpoint(
    path: str, config: PretrainedConfig, model: Model, tokenizer: PreTrainedTokenizerBase, seed: int, in_4bit: bool,
    keeps_head: bool,
) -> PreTrainedModel:  # fmt: skip
    """Load a checkpoint directly into the class with a scalar head, keeping its own head or initialising a new one."""
    model_class = classification_class(config, path, in_4bit=in_4bit)
    config.num_labels, config.score_offset, config.score_token_id = 1, 0.0, control(tokenizer).im_end
    set_dropout(config, model.attention_dropout)
    torch.manual_seed(seed)
    scalar, _ = from_pretrained(model_class, path, config, model, in_4bit, may_lack=() if keeps_head else [HEAD_WEIGHT])
    if in_4bit:
        return finish_loading(prepare_4bit_base(scalar, tokenizer, path), path, model)
    fit_embeddings(scalar, tokenizer)
    return finish_loading(set_dtype_and_mode(scalar, model, True, "cpu"), path, model)


def load_config(path: str, model: Model) -> PretrainedConfig:
    """Load the configuration of a model folder or hub id; raise RunError if there is none."""
    try:
        return AutoConfig.from_pretrained(path, revision=model.revision)
    except (OSError, ValueError) as error:
        raise RunError(f"no model at {path} ({first_line(error)}); give a model folder or a hub id") from None


def set_dtype_and_mode(
    loaded: PreTrainedModel, model: Model, trained: bool, device: torch.device | str
) -> PreTrainedModel:
    """Set dtype, training or evaluation mode, gradients and device of a model that was just loaded."""
    if trained:
        move(loaded, device)
        return loaded.train().requires_grad_(True)  # merging an adapter froze all weights
    # Non-persistent buffers, such as rotary frequencies, stay float32 in plain loading too.
    computed = [
        (module, name, buffer)
        for module in loaded.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if name in non_persistent_buffers(module)
    ]
    move(loaded, device, compute_dtype(model))
    loaded.eval().requires_grad_(False)
    for module, name, buffer in computed:
        setattr(module, name, buffer.to(device))
    return loaded


def finish_loading(loaded: PreTrainedModel, path: str, model: Model) -> PreTrainedModel:
    """Switch off the dropout that is left, run the self-test, and return the model.

    The padding token's embedding row is trained like any other: rows are not padded in training, and some models pad
    with a token that conversations contain (SmolLM2 with <|im_end|>). Raises RunError if the self-test fails.
    """
    cast(torch.nn.Embedding, loaded.get_input_embeddings()).padding_idx = None
    switch_off_noise(loaded, keep_attention=model.attention_dropout > 0)
    self_test(loaded, path)
    return loaded
