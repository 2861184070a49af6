"""Compile the forward pass of one token in fixed shapes: one CUDA graph per shape on a GPU, C++ on a CPU.

Keys and values are stored in buffers that keep their addresses for the whole run, as CUDA graphs require. The number of
rows is rounded up to a power of two, so that finished rows can still leave; the number of columns is that of the
rollout's longest prompt and response, rounded up. So there are few shapes, and each is compiled once. Prompts are
prefilled as in the plain decode loop, and the tokens drawn are the same up to the rounding of logits. This has been run
on CPUs only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from engine.compat import compile_error, mark_static_address
from engine.errors import RunError
from engine.forward.attention import FIXED, refuse_unless_full_attention, use_attention

BACKEND = "inductor"
MIN_ROWS, MIN_COLUMNS, MAX_GRAPHS = 16, 64, 64

Views = tuple[list[torch.Tensor], list[torch.Tensor]]
"""the keys and the values, one tensor per layer each"""


def fixed_rows(rows: int) -> int:
    """Return `rows` rounded up to a power of two, at least MIN_ROWS."""
    return max(MIN_ROWS, 1 << (rows - 1).bit_length())


def fixed_columns(columns: int) -> int:
    """Return `columns` rounded up to a power of two or one and a half times a power of two, at least MIN_COLUMNS."""
    power = 1 << (columns - 1).bit_length()
    return max(MIN_COLUMNS, power * 3 // 4 if columns <= power * 3 // 4 else power)


def fixed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    keys: list[torch.Tensor] | None = None,
    values: list[torch.Tensor] | None = None,
    column: torch.Tensor | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from one new token per row, after writing its key and value into the buffers; without buffers, as sdpa.

    Shapes: columns is the capacity of the buffers in tokens; key heads divide heads (grouped-query attention).

    Args:
        module: the layer's attention module, which has its number as `layer_idx`.
        query: (rows, heads, 1, head_dim).
        key, value: (rows, key heads, 1, head_dim).
        attention_mask: (rows, 1, 1, columns) bool, true where a row attends.
        scaling: factor of query · key; None for 1 / √head_dim.
        keys, values: the buffers, one (rows, key heads, columns, head_dim) tensor per layer.
        column: (1,) int64, the column to write.

    Returns (rows, 1, heads, head_dim), and None for the attention weights.
    """
    if keys is None or values is None or column is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)
    k, v = keys[module.layer_idx], values[module.layer_idx]
    k.index_copy_(2, column, key.to(k.dtype))
    v.index_copy_(2, column, value.to(v.dtype))
    # Query heads that share a key head become queries of that head, so keys need not be repeated.
    grouped = query.unflatten(1, (k.shape[1], -1))[:, :, :, 0]
    out = F.scaled_dot_product_attention(grouped, k, v, attn_mask=attention_mask, scale=scaling)
    return out.flatten(1, 2)[:, None], None


AttentionInterface.register(FIXED, fixed_attention)
AttentionMaskInterface.register(FIXED, sdpa_mask)


class CompiledDecoder:
    """Compiled decoding of one model, for a whole run. Weights may change in place, but must keep their addresses."""

    def __init__(self, model: PreTrainedModel):
        refuse_unless_full_attention(model.config)
        self.model = model
        self.capacity = 0
        """rows × columns of the buffers"""
        self.columns = 0
        self.buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        """keys and values of each layer, (capacity, key heads, head_dim)"""
        self.views: dict[tuple[int, int], Views] = {}
        """views of the buffers by (rows, columns), in the shapes that are computed; each is created once"""
        self.low_precision: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
        """copies of the linear layers' weights in autocast's dtype"""
        torch.compiler.config.recompile_limit = MAX_GRAPHS
        mode = "reduce-overhead" if model.device.type == "cuda" else None
        self.step = torch.compile(_logits, fullgraph=True, dynamic=False, backend=BACKEND, mode=mode)

    @contextmanager
    def prepared(self, rows: int, columns: int) -> Iterator[None]:
        """Prepare to decode batches of at most `rows` × `columns` inside the block; weights must not change in it."""
        self.columns = fixed_columns(columns)  # not the largest so far, which a resumed run would not know
        self.capacity = max(self.capacity, fixed_rows(rows) * self.columns)
        with use_attention(self.model, FIXED), self._cast_once():
            yield

    @contextmanager
    def _cast_once(self) -> Iterator[None]:
        """Cast linear weights to autocast's dtype inside the block; the graph would cast them again at every token."""
        device, swapped = self.model.device.type, []
        if torch.is_autocast_enabled(device):
            linear = [layer for layer in self.model.modules() if isinstance(layer, torch.nn.Linear)]
            swapped = [(layer, *named) for layer in linear for named in layer.named_parameters(recurse=False)]
        for layer, name, whole in swapped:
            if whole not in self.low_precision:
                low = torch.empty_like(whole, dtype=torch.get_autocast_dtype(device))
                self.low_precision[whole] = torch.nn.Parameter(low, requires_grad=False)
            self.low_precision[whole].copy_(whole.detach())
            setattr(layer, name, self.low_precision[whole])
        try:
            yield
        finally:
            for layer, name, whole in swapped:
                setattr(layer, name, whole)

    def begin(self, cache: DynamicCache, mask: torch.Tensor, responses: int) -> "FixedBatch":
        """Return a batch of `responses` rows per prompt that continues the prompts in `cache`.

        Prompts are left-padded; `mask` is (prompts, longest prompt), 1 at their tokens.
        """
        prompts, longest = mask.shape
        if not self.buffers or len(self.buffers[0][0]) < self.capacity:
            self._allocate(cache)
        rows = prompts * responses
        for layer, *fixed in zip(cache.layers, *self.view(fixed_rows(rows)), strict=True):
            for view, read in zip(fixed, _keys_and_values(layer), strict=True):
                view[:rows, :, :longest].unflatten(0, (prompts, responses)).copy_(read[:, None])
        cache.layers.clear()
        return FixedBatch(self, (longest - mask.sum(1)).repeat_interleave(responses, 0), longest)

    def _allocate(self, cache: DynamicCache) -> None:
        """Allocate buffers for the cache's layers, in the dtype in which attention reads them."""
        self.buffers.clear()
        self.views.clear()
        for layer in cache.layers:
            keys, values = _keys_and_values(layer)
            device, dtype = keys.device, keys.dtype
            if torch.is_autocast_enabled(device.type):
                dtype = torch.get_autocast_dtype(device.type)
            # Zeros, because masked entries are multiplied by 0, and 0 · NaN is NaN.
            key_buffer, value_buffer = (
                torch.zeros(self.capacity, read.shape[1], read.shape[3], dtype=dtype, device=device)
                for read in (keys, values)
            )
            self.buffers.append((key_buffer, value_buffer))

    def view(self, rows: int) -> Views:
        """Return keys and values of each layer, (rows, key heads, columns, head_dim), from the start of the buffers."""
        if (rows, self.columns) not in self.views:
            keys, values = ([self._shaped(layer[kind], rows) for layer in self.buffers] for kind in (0, 1))
            self.views[rows, self.columns] = (keys, values)
        return self.views[rows, self.columns]

    def _shaped(self, buffer: torch.Tensor, rows: int) -> torch.Tensor:
        _, heads, dim = buffer.shape
        view = buffer[: rows * self.columns].view(rows, heads, self.columns, dim)
        mark_static_address(view)  # lets a CUDA graph write into it instead of copying it
        return view


class FixedBatch:
    """A DecodingBatch in the first rows of the buffers; each call of `next_logits` writes the next column."""

    def __init__(self, compiled: CompiledDecoder, starts: torch.Tensor, column: int):
        self.compiled, self.rows, self.size = compiled, len(starts), fixed_rows(len(starts))
        self.starts = F.pad(starts, (0, self.size - self.rows))
        """(size,) int64: the column of each row's first token"""
        self.written, self.column = column, torch.tensor([column - 1], device=starts.device)

    def should_shrink(self, rows: int) -> bool:
        return fixed_rows(rows) < self.size

    def keep(self, rows: torch.Tensor) -> None:
        before, self.rows, self.size = self.compiled.view(self.size), len(rows), fixed_rows(len(rows))
        for fewer, more in zip(self.compiled.view(self.size), before, strict=True):
            for view, whole in zip(fewer, more, strict=True):
                view[: self.rows, :, : self.written] = whole[rows, :, : self.written]
        self.starts = F.pad(self.starts[rows], (0, self.size - self.rows))

    def next_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, (rows,); return (rows, vocabulary) logits, valid until the next call."""
        self.written += 1
        self.column += 1
        tokens = F.pad(tokens, (0, self.size - self.rows))
        torch.compiler.cudagraph_mark_step_begin()
        try:
            keys, values = self.compiled.view(self.size)
            logits = self.compiled.step(self.compiled.model, tokens, self.starts, self.column, keys, values)
        except compile_error() as error:
            cause = " ".join(line.strip() for line in str(error).splitlines()[:2])
            raise RunError(f"sampling.engine=compiled: {cause}; use sampling.engine=own") from None
        return logits[: self.rows]


def _keys_and_values(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values of a cache's layer, (prompts, key heads, columns, head_dim)."""
    assert isinstance(layer, DynamicLayer)  # `refuse_unless_full_attention`
    assert layer.keys is not None  # the prompts are in the cache
    assert layer.values is not None
    return layer.keys, layer.values


def _logits(
    model: PreTrainedModel,
    tokens: torch.Tensor,
    starts: torch.Tensor,
    column: torch.Tensor,
    keys: list[torch.Tensor],
    values: list[torch.Tensor],
) -> torch.Tensor:
    """Return (rows, vocabulary) logits after one more token per row. This is the function that is compiled.

    `tokens` and `starts` are (rows,), `column` is (1,). A row attends to the columns from its start to `column`; later
    columns contain values of earlier batches.
    """
    columns = torch.arange(keys[0].shape[2], device=tokens.device)
    seen = (columns >= starts[:, None]) & (columns <= column)
    output = model(
        input_ids=tokens[:, None],
        attention_mask=seen[:, None, None],
        position_ids=(column - starts)[:, None],
        use_cache=False,
        logits_to_keep=1,
        keys=keys,
        values=values,
        column=column,
    )
    return output.logits[:, -1]
