"""Build a small float32 twin of a loaded model: the same class and configuration, a few layers, a small vocabulary.

Its cost does not depend on the model's depth, vocabulary or storage: float32 weights are shared with the model, other
dtypes are converted, and quantised weights are replaced by random ones.
"""

import copy
from collections import Counter
from typing import Any

import torch
from transformers import PreTrainedModel

MIN_LAYERS = 2
# Sliding windows are shrunk to at most this many tokens, fewer than a test sequence has, so that they have an effect.
WINDOW_TOKENS = 4
# Parts of the names of attributes that count layers; layers of one kind differ in them.
LAYER_NUMBER_NAMES = ("idx", "index", "layer_id", "layer_number")


def float32_twin(model: PreTrainedModel, tokens: int, *, all_layers: bool = False) -> PreTrainedModel:
    """Return a twin with the first `tokens` rows of the vocabulary, and every kind of layer that the model has.

    Parts of a new model's forward pass have no effect. So vectors (biases, norms, sinks) are changed a little, and
    small matrices are scaled up until they preserve the size of their input. Torch's own random generators are not
    used. A sliding window is shrunk to WINDOW_TOKENS.
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
            memo[id(module)] = _random_linear(module, noise)
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
        holders: tuple[Any, ...] = (module, getattr(module, "config", None))
        for holder in holders:
            if isinstance(window := getattr(holder, "sliding_window", None), int):
                holder.sliding_window = min(window, WINDOW_TOKENS)
    return twin.requires_grad_(False)


def _stacks(model: PreTrainedModel) -> list[torch.nn.ModuleList]:
    """Return the model's lists of layers, except lists inside layers."""
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) > MIN_LAYERS
    ]
    return [module for name, module in found if not any(name.startswith(f"{outer}.") for outer, _ in found)]


def _depth(stack: torch.nn.ModuleList) -> int:
    """Return how many of the first layers are needed to have every kind of layer."""
    kinds = [_kind(layer) for layer in stack]
    return max(MIN_LAYERS, 1 + max(kinds.index(kind) for kind in Counter(kinds)))


def _kind(layer: torch.nn.Module) -> str:
    """Return a description of a layer's parts: classes, shapes, and settings other than floats."""
    parts = []
    for name, module in layer.named_modules():
        settings = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, bool | int | str | None) and not any(place in key for place in LAYER_NUMBER_NAMES)
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


def _random_linear(layer: torch.nn.Linear, noise: torch.Generator) -> torch.nn.Linear:
    """Return a plain linear layer with random weights in place of a quantised one."""
    plain = torch.nn.utils.skip_init(torch.nn.Linear, layer.in_features, layer.out_features, layer.bias is not None)
    for weight in plain.parameters():
        weight.data = torch.randn(weight.shape, generator=noise) * layer.in_features**-0.5
    return plain.to(layer.weight.device)
