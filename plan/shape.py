"""The shape of a model from its configuration. Parameters are counted on the real class, built without memory.

The configuration comes from the model's folder, else from the hub's cache, else from the table of published shapes
below (the models of the shipped recipes, so that their plans need no network), else from the hub.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from re import fullmatch

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from config.sections import Model
from engine.errors import RunError
from engine.models.adapters import base_of
from engine.models.loading import load_config

# hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, intermediate_size, vocab_size, tied, and
# the family, from the config.json of each model's page on the hub.
PUBLISHED = {
    "Qwen/Qwen1.5-0.5B": (1024, 24, 16, 16, 2816, 151936, True, "qwen2"),
    "Qwen/Qwen1.5-1.8B": (2048, 24, 16, 16, 5504, 151936, False, "qwen2"),
    "Qwen/Qwen1.5-7B": (4096, 32, 32, 32, 11008, 151936, False, "qwen2"),
    "Qwen/Qwen1.5-14B": (5120, 40, 40, 40, 13696, 152064, False, "qwen2"),
    "Qwen/Qwen1.5-72B": (8192, 80, 64, 64, 24576, 152064, False, "qwen2"),
    "Qwen/Qwen2.5-7B": (3584, 28, 28, 4, 18944, 152064, False, "qwen2"),
    "Qwen/Qwen3-8B-Base": (4096, 36, 32, 8, 12288, 151936, False, "qwen3"),
}


@dataclass(frozen=True)
class Shape:
    """Sizes that memory and time depend on, in numbers (not bytes)."""

    name: str
    parameters: int
    """of the causal LM, with its output head"""
    vocabulary: int
    hidden: int
    layers: int
    layer_parameters: int
    """of one layer"""
    heads: int
    queries: int
    """width of the queries of all heads together"""
    keys: int
    """width of the keys of all heads together; values have the same width"""
    intermediate: int
    tied: bool
    """whether the output head is the embedding table"""
    normalised_heads: bool
    """whether queries and keys are normalised (Qwen3)"""
    linear: tuple[tuple[str, int, int], ...]
    """(name, inputs, outputs) of every linear layer but the output head"""

    @property
    def table(self) -> int:
        """Parameters of the embedding table; the output head has as many."""
        return self.vocabulary * self.hidden

    @property
    def scalar_parameters(self) -> int:
        """Parameters of the model with a scalar head instead of the output head."""
        return self.parameters - (0 if self.tied else self.table) + self.hidden

    @property
    def products(self) -> int:
        """Parameters of all linear layers without the output head: those in matrix products with every token."""
        return sum(inputs * outputs for _, inputs, outputs in self.linear)


def shape_of(path: str, model: Model) -> Shape:
    """Return the shape of the model at `path`, a folder or hub id.

    Raise RunError if its configuration cannot be loaded or its layers are not dense and gated.
    """
    config, name = config_of(path, model)
    return shape(config, name)


def config_of(path: str, model: Model) -> tuple[PretrainedConfig, str]:
    """Return the configuration of the model at `path`, and the model's name for the printed plan."""
    path = base_of(path)
    if os.path.exists(path) or isinstance(try_to_load_from_cache(path, "config.json"), str):
        return load_config(path, model), path
    if path in PUBLISHED:
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size",
                 "vocab_size", "tie_word_embeddings")  # fmt: skip
        *values, family = PUBLISHED[path]
        extra = {"head_dim": 128} if family == "qwen3" else {}
        made = AutoConfig.for_model(family, **dict(zip(names, values, strict=True)), **extra)
        return made, f"{path} (shape as published)"
    return load_config(path, model), path


def shape(config: PretrainedConfig, name: str) -> Shape:
    """Return the shape of a model with this configuration, built on the meta device, where tensors have no memory.

    Raise RunError, naming the model `name`, if its layers are not dense and gated.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    body, values = model.base_model, config.get_text_config()
    layers = dict(body.named_children()).get("layers")
    names = [key for key, _ in layers[0].named_parameters()] if isinstance(layers, torch.nn.ModuleList) else []
    gated = any(key.endswith("mlp.gate_proj.weight") for key in names)
    if not isinstance(layers, torch.nn.ModuleList) or not gated or "experts" in str(layers[0]):
        raise RunError(
            f"{name} is a {config.model_type} model; plans are for decoders of dense, gated layers (Qwen, "
            "Llama, Mistral)"
        )
    head_dim = getattr(values, "head_dim", None) or values.hidden_size // values.num_attention_heads
    return Shape(
        name=name,
        parameters=sum(p.numel() for p in model.parameters()),
        vocabulary=values.vocab_size,
        hidden=values.hidden_size,
        layers=len(layers),
        layer_parameters=sum(p.numel() for p in layers[0].parameters()),
        heads=values.num_attention_heads,
        queries=values.num_attention_heads * head_dim,
        keys=values.num_key_value_heads * head_dim,
        intermediate=values.intermediate_size,
        tied=bool(values.tie_word_embeddings),
        normalised_heads=any("q_norm" in key for key in names),
        linear=tuple(
            (key, module.in_features, module.out_features)
            for key, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not model.get_output_embeddings()
        ),
    )


def lora_parameters(shape: Shape, r: int, target_modules: str | Iterable[str], *, scalar: bool) -> int:
    """Return the number of trained parameters with LoRA adapters of rank r.

    These are r (inputs + outputs) for each linear layer with an adapter, two rows of each table (a few more if the
    tokenizer has tool tokens), and the scalar head of a reward or value model (`scalar`).
    """
    chosen: Sequence[tuple[str, int, int]]
    if target_modules == "all-linear":
        chosen = shape.linear
    elif isinstance(target_modules, str):
        chosen = [layer for layer in shape.linear if fullmatch(target_modules, layer[0])]
    else:
        chosen = [layer for layer in shape.linear if layer[0].endswith(tuple(f".{name}" for name in target_modules))]
    tables = 1 if scalar or shape.tied else 2
    return sum(r * (i + o) for _, i, o in chosen) + 2 * shape.hidden * tables + (shape.hidden if scalar else 0)


def adapter_rank(path: str) -> int | None:
    """Return the rank of the adapter in a folder; None if there is none yet."""
    from peft import PeftConfig

    return PeftConfig.from_pretrained(path).r if (Path(path) / "adapter_config.json").exists() else None
