"""Switch off dropout and other training noise, whatever a family calls it; set attention dropout from the recipe."""

import re
from typing import Any

import torch
from transformers import PretrainedConfig

from engine.errors import RunError

# Names in configurations and modules: dropout, attn_pdrop, layerdrop, drop_path_rate, router_jitter_noise, …
NOISE_NAME = re.compile(r"drop|jitter", re.IGNORECASE)
ATTENTION_NAME = re.compile(r"att", re.IGNORECASE)
DROPOUT_LAYERS = (
    torch.nn.Dropout,
    torch.nn.Dropout1d,
    torch.nn.Dropout2d,
    torch.nn.Dropout3d,
    torch.nn.AlphaDropout,
    torch.nn.FeatureAlphaDropout,
)
# transformers' configuration keys for attention dropout.
ATTENTION_KEYS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob", "attn_dropout")


def set_dropout(config: PretrainedConfig, attention: float) -> None:
    """Set a configuration's attention dropout to `attention` (a probability), and all other noise to 0.

    Adds no key that the family does not have, except `attention_dropout`. Raises RunError if `attention` is not 0 and
    the family has no attention dropout.
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
    """Set modules' dropout and noise to 0, for families that do not read them from their configuration.

    `keep_attention` leaves modules and attributes unchanged whose names show that they are attention's.
    """
    for path, module in model.named_modules():
        if isinstance(module, DROPOUT_LAYERS):
            if not (keep_attention and ATTENTION_NAME.search(path)):
                module.p = 0.0
            continue
        for name, value in vars(module).items():
            if is_noise(name, value) and not (keep_attention and ATTENTION_NAME.search(f"{path}.{name}")):
                setattr(module, name, 0.0)


def is_noise(name: str, value: Any) -> bool:
    """Return whether an attribute is a dropout rate or other amount of noise above 0."""
    return (
        NOISE_NAME.search(name) is not None
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and value > 0
    )
