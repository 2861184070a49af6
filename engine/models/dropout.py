"""Dropout and other noise of training, off by whatever name a family has for it; attention's as the recipe says."""

import re
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd
from transformers import PretrainedConfig

from engine.errors import RunError

# Names of configurations and modules: dropout, attn_pdrop, layerdrop, drop_path_rate, router_jitter_noise, …
NOISE = re.compile(r"drop|jitter", re.IGNORECASE)
ATTENTION = re.compile(r"att", re.IGNORECASE)
# transformers' names for the share of attention weights that is dropped.
ATTENTION_KEYS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "attn_dropout")


def set_dropout(config: PretrainedConfig, attention: float) -> None:
    """Set attention's dropout in a configuration, and all other noise to 0; RunError where attention has none to set.

    A key that a family does not have is left out of its configuration, but for `attention_dropout`.
    """
    parts = {id(part): part for part in (config, config.get_text_config())}.values()
    known = {key for part in parts for key in ATTENTION_KEYS if hasattr(part, key)}
    if attention and not known:
        raise RunError(
            f"model.attention_dropout={attention}, but {config.model_type} models have no such dropout; set it to 0"
        )
    for part in parts:
        for key, value in part.to_dict().items():
            if is_noise(key, value):
                setattr(part, key, 0.0)
        for key in known:
            if hasattr(part, key):
                setattr(part, key, attention)
    config.attention_dropout = attention


def switch_off_noise(model: torch.nn.Module, *, keep_attention: bool) -> None:
    """Set what modules hold of dropout and noise to 0, for families that do not take it from their configuration.

    With `keep_attention`, what belongs to attention by its name stays.
    """
    for path, module in model.named_modules():
        if isinstance(module, _DropoutNd):
            if not (keep_attention and ATTENTION.search(path)):
                module.p = 0.0
            continue
        for name, value in vars(module).items():
            if is_noise(name, value) and not (keep_attention and ATTENTION.search(f"{path}.{name}")):
                setattr(module, name, 0.0)


def is_noise(name: str, value: Any) -> bool:
    """Return whether an attribute is a share or an amount of noise that is not 0."""
    return (
        NOISE.search(name) is not None and isinstance(value, int | float) and not isinstance(value, bool) and value > 0
    )
