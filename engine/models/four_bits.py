"""Load a base in 4 bits with bitsandbytes, to train float32 adapters on it (QLoRA, Dettmers et al. 2023).

Linear layers are stored as NF4 with 8-bit scales; embeddings, norms and heads are not quantised. bitsandbytes is
optional: it is not in plumbline's requirements.
"""

import os
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from config.sections import Model
from engine.dist.devices import compute_dtype
from engine.errors import RunError
from engine.models.adapters import is_adapter
from engine.models.vocabulary import stop_at_end_of_turn

# An attribute of bitsandbytes' layers.
BF16_KERNEL = "support_avx512bf16_for_cpu"


def four_bit_arguments(model: Model) -> dict[str, Any]:
    """Return the `from_pretrained` arguments that load linear layers, except heads, in 4 bits on this rank's device."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(model),
        llm_int8_skip_modules=["lm_head", "score"],
    )
    place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    return {"quantization_config": config, "device_map": {"": place}}


def prepare_4bit_base(loaded: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str) -> PreTrainedModel:
    """Freeze a model that was loaded in 4 bits and set training mode, so that adapters can be added.

    Raises RunError if its weights would have to change first: `path` is an adapter, or rows for ChatML tokens are
    missing.
    """
    if is_adapter(path):
        raise RunError(
            f"{path} is an adapter, which cannot be merged into a base in 4 bits; merge it first: "
            f'make merge ARGS="{path} OUT"'
        )
    if loaded.config.vocab_size < len(tokenizer):
        raise RunError(
            f"{path} has no rows for the ChatML tokens, and an adapter on a base in 4 bits cannot add them; leave "
            "load_in_4bit out"
        )
    if loaded.can_generate():
        stop_at_end_of_turn(loaded, tokenizer)
    for module in loaded.modules():
        if hasattr(module, BF16_KERNEL):
            # On some CPUs the first pass in evaluation mode would repack a layer into a form without a backward pass.
            setattr(module, BF16_KERNEL, False)
    return loaded.train().requires_grad_(False)
