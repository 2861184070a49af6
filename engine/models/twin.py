"""A small float32 twin of a loaded model: the same class and configuration, a few layers, a small vocabulary.

Its cost does not depend on the model's depth or vocabulary, nor on how its weights are stored: float32 weights are
shared with the model, others are converted, quantised ones are drawn.
"""

import copy
from collections import Counter
from typing import Any

import torch
from transformers import PreTrainedModel

LEAST_LAYERS = 2
# The tokens of a sliding window, where there is one: shorter than the sequences of a test, so that it shows.
WINDOW = 4
# Integers by which layers of one kind differ.
PLACES = ("idx", "index", "layer_id", "layer_number")


def float32_twin(model: PreTrainedModel, tokens: int, *, all_layers: bool = False) -> PreTrainedModel:
    """Return a twin with the first `tokens` rows of the vocabulary, and every kind of layer that the model has.

    So that no part of the forward pass is without effect, as in a new model, vectors (biases, norms, sinks) are
    moved a little and matrices are brought up to the size that keeps their input's. Takes nothing from torch's own
    generators. A sliding window is shrunk to WINDOW tokens.
    """
    noise = torch.Generator().manual_seed(0)
    memo: dict[int, Any] = {}
    dropped: set[int] = set()
    for stack in _stacks(model):
        kept = stack if all_layers else stack[: _depth(stack)]
        dropped |= {id(module) for layer in list(stack)[len(kept) :] for module in layer.modules()}
    tables = _tables(model)
    for module in model.modules():
        if id(module) in dropped:
            continue
        if isinstance(module, torch.nn.Linear) and module.weight.dtype in (torch.uint8, torch.int8):  # bitsandbytes
            memo[id(module)] = _drawn(module, noise)
            continue
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if id(tensor) not in memo:
                memo[id(tensor)] = _table(tensor, tokens, noise) if id(tensor) in tables else _float32(tensor, noise)
    for stack in _stacks(model):
        layers = [copy.deepcopy(layer, memo) for layer in stack if id(layer) not in dropped]
        memo[id(stack)] = torch.nn.ModuleList(layers)
    twin = copy.deepcopy(model, memo)
    for module in twin.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # it may be beyond the small vocabulary
        for holder in (module, getattr(module, "config", None)):
            if isinstance(window := getattr(holder, "sliding_window", None), int):
                holder.sliding_window = min(window, WINDOW)
    return twin.requires_grad_(False)


def _stacks(model: PreTrainedModel) -> list[torch.nn.ModuleList]:
    """Return the model's lists of layers, those inside of layers left out."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) > LEAST_LAYERS
    ]
    return [module for name, module in found if not any(name.startswith(f"{outer}.") for outer, _ in found)]


def _depth(stack: torch.nn.ModuleList) -> int:
    """Return how many layers from the first on have every kind of layer among them."""
    kinds = [_kind(layer) for layer in stack]
    return max(LEAST_LAYERS, 1 + max(kinds.index(kind) for kind in Counter(kinds)))


def _kind(layer: torch.nn.Module) -> str:
    """Return what a layer is made of: classes, shapes, and settings that are no floats."""
    parts = []
    for name, module in layer.named_modules():
        settings = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, bool | int | str | None) and not any(place in key for place in PLACES)
        }
        shapes = [tuple(weight.shape) for weight in module.parameters(recurse=False)]
        parts.append((name, type(module).__name__, shapes, sorted(settings.items(), key=lambda item: item[0])))
    return repr(parts)


def _tables(model: PreTrainedModel) -> set[int]:
    """Return the ids of the tensors with a row for each token: embedding table, output head and the head's bias."""
    modules = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    tensors = [getattr(module, name, None) for module in modules for name in ("weight", "bias")]
    return {id(tensor) for tensor in tensors if tensor is not None}


def _table(tensor: torch.Tensor, tokens: int, noise: torch.Generator) -> torch.Tensor:
    return _float32(torch.nn.Parameter(tensor.detach()[:tokens], requires_grad=False), noise)


def _float32(tensor: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    values = tensor.detach()
    if not isinstance(tensor, torch.nn.Parameter):
        values = values.clone()  # some rotary positions change their frequencies in place
        return values.float() if values.is_floating_point() else values
    if not values.is_floating_point():
        return values
    values = values.float()
    if values.ndim == 1:
        values = values + 0.1 * torch.randn(values.shape, generator=noise).to(values.device)
    elif values.ndim > 1:
        usual, own = (values.numel() / len(values)) ** -0.5, float(values.norm()) * values.numel() ** -0.5
        if own == 0:
            values = usual * torch.randn(values.shape, generator=noise).to(values.device)
        elif own < usual / 2:
            values = values * (usual / own)
    return torch.nn.Parameter(values, requires_grad=False)


def _drawn(layer: torch.nn.Linear, noise: torch.Generator) -> torch.nn.Linear:
    """Return a plain layer with random weights in place of a quantised one."""
    plain = torch.nn.utils.skip_init(torch.nn.Linear, layer.in_features, layer.out_features, layer.bias is not None)
    for weight in plain.parameters():
        weight.data = torch.randn(weight.shape, generator=noise) * layer.in_features**-0.5
    return plain.to(layer.weight.device)
