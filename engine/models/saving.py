"""Save finished models, with adapters merged or alone, as folders that plain `from_pretrained` loads."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from config.sections import Model
from engine.compat import attention_of
from engine.files import durable
from engine.models.adapters import has_extended_vocabulary
from engine.models.loading import SCALAR_HEAD, SCALAR_KEYS, load_causal, load_scalar
from engine.models.saved_tokenizer import save_tokenizer
from engine.models.vocabulary import set_padding_token, stop_at_end_of_turn


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    merge: bool = False,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Save weights, configuration, tokenizer, chat template and generation config.

    `model` is a model of transformers, or a PeftModel around one, which passes its attributes on. LoRA is saved as an
    adapter, or merged if `merge` is set or the base lacks rows that the tokenizer needs. Pass the full `weights` if
    `model` itself is sharded.
    """
    if model.can_generate():
        stop_at_end_of_turn(model, tokenizer)  # trainers replace it with the tokenizer's end token
    else:
        tokenizer = set_padding_token(model, tokenizer)
    model.config.use_cache = True  # trainers switch it off, which config.json would keep
    if isinstance(model, PeftModel) and (merge or has_extended_vocabulary(model)):
        model = merge_adapters(model, tokenizer, weights, folder.parent)
        weights = None
    model.save_pretrained(folder, state_dict=weights)
    if isinstance(model, PeftModel):
        # A config.json beside an adapter would make transformers take the folder for a whole model.
        if model.can_generate():
            model.generation_config.save_pretrained(folder)
        else:
            write_scalar_head(model, folder)
    save_tokenizer(tokenizer, folder, scores=not model.can_generate())


def merge_adapters(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, weights: dict[str, torch.Tensor] | None, scratch: Path
) -> PreTrainedModel:
    """Return the model with its adapters merged.

    If the model is sharded (`weights` given), load the base again and merge the adapters into it, by way of a temporary
    folder in `scratch`.
    """
    if weights is None:
        low = any(weight.dtype != torch.float32 for weight in model.parameters())
        return (model.to("cpu").float() if low else model).merge_and_unload()
    with tempfile.TemporaryDirectory(dir=scratch) as adapter:
        model.save_pretrained(adapter, state_dict=weights)
        load = load_causal if model.can_generate() else load_scalar
        if load is load_scalar:
            write_scalar_head(model, Path(adapter))
        # The attention that it was trained with; the self-test might refuse another.
        attention: Any = attention_of(model)
        section = Model(path=adapter, dtype="float32", attention=attention)
        merged = load(adapter, section, tokenizer, trained=False)
        merged.config = model.config
        return merged


def write_scalar_head(model: PeftModel, folder: Path) -> None:
    """Write the file that marks a reward model's adapter: score offset, and id of the token where the score is read."""
    durable.write_json(folder / SCALAR_HEAD, {key: getattr(model.config, key) for key in SCALAR_KEYS})
