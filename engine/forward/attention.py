"""What each attention implementation can do, and which one runs where. Nothing else in the project decides that.

packed              ours: several sequences in one flat row (`packed_attention` below), full or with a sliding window;
                    the only one that knows `key_positions`, by which a pair's shared beginning stands in the row once
flash_attention_2   flash-attn, where it is installed and there is a GPU; packed rows by cumulative lengths
sdpa                torch's, under which transformers isolates packed sequences by their restarting positions;
                    the only one that decodes, because it takes a cache and left padding on every device
eager               transformers' plain attention, otherwise as sdpa
fixed               one new token a row over buffers of fixed shape (engine/generation/compiled.py), full attention only
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.cache_utils import DynamicLayer
from transformers.utils import is_flash_attn_2_available

from engine.errors import RunError

PACKED, DECODING, FIXED = "packed", "sdpa", "fixed"


def implementation_of(choice: str) -> str:
    """Return the implementation that `model.attention` means; `auto` is flash-attn where it can run, else ours."""
    if choice == "auto":
        return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else PACKED
    return choice


@contextmanager
def use_attention(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Run a model under another attention implementation for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def decoding_attention(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Return the context in which a model generates with a key/value cache and left-padded prompts."""
    return use_attention(model, DECODING)


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Return whether the model's present implementation knows `key_positions`."""
    return model.config._attn_implementation == PACKED


def use_shared_prefixes(model: PreTrainedModel) -> None:
    """Set the implementation that knows `key_positions`, for good; flash-attn, which `auto` may mean, does not."""
    model.set_attn_implementation(PACKED)


def refuse_unless_full_attention(config: PretrainedConfig) -> None:
    """Raise RunError if a layer of the model has another cache than full attention's, which `fixed` needs."""
    if any(type(layer) is not DynamicLayer for layer in DynamicCache(config=config).layers):
        raise RunError(
            "sampling.engine=compiled supports full attention only, and a layer of this model has another kind; "
            "use sampling.engine=own"
        )


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    key_positions: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each sequence of a flat row: one call a sequence on a CPU, torch's varlen kernel on a GPU.

    Args:
        query: (1, heads, total, head_dim).
        key, value: (1, key heads, total, head_dim); there may be fewer key heads than heads.
        cu_seq_lens_q, cu_seq_lens_k: (sequences + 1,) int32 cumulative lengths, from `pack` or `pack_pairs`.
        key_positions: (sum of key lengths,) where each sequence's keys stand, if not where its queries do; its
            queries are then the last of its positions.
        sliding_window: how many keys a query sees, its own included; None for all of them.

    Returns (1, total, heads, head_dim) and None for attention weights.
    """
    if cu_seq_lens_q is None or cu_seq_lens_k is None or max_length_q is None or max_length_k is None:
        raise ValueError("packed attention was called without the sequences' lengths; take the arguments from pack()")
    if key_positions is not None:
        key, value = key.index_select(2, key_positions), value.index_select(2, key_positions)
    grouped = key.shape[1] != query.shape[1]
    if query.is_cuda and value.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0:
        from torch.nn.attention.varlen import varlen_attn

        query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast rotation leaves them in float32
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        lengths = (cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
        window = (-1 if sliding_window is None else sliding_window - 1, 0)  # keys before a query's own, and after
        out = varlen_attn(q, k, v, *lengths, scale=scaling, window_size=window, enable_gqa=grouped)
        return out[None], None
    query_lengths, key_lengths = cu_seq_lens_q.diff().tolist(), cu_seq_lens_k.diff().tolist()
    if len(query_lengths) > 1 and len({*query_lengths, *key_lengths}) == 1:  # one call for all of them
        q, k, v = (tensor[0].unflatten(1, (len(query_lengths), -1)).transpose(0, 1) for tensor in (query, key, value))
        out = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling, enable_gqa=grouped, **_causal(q, k, sliding_window)
        )
        return out.transpose(1, 2).flatten(0, 1)[None], None
    sequences = zip(query.split(query_lengths, 2), key.split(key_lengths, 2), value.split(key_lengths, 2), strict=True)
    out = torch.cat(
        [
            F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, scale=scaling, enable_gqa=grouped, **_causal(q, k, sliding_window)
            )
            for q, k, v in sequences
        ],
        dim=2,
    )
    return out.transpose(1, 2), None


def _causal(query: torch.Tensor, key: torch.Tensor, window: int | None) -> dict[str, Any]:
    """Return the arguments by which a query sees the last `window` keys up to its own (None: all of them).

    The last key is the last query's.
    """
    queries, keys = query.shape[2], key.shape[2]
    before = keys - queries
    if window is not None and window < keys:
        seen = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(before)
        return {"attn_mask": seen.triu(before - window + 1)}
    if queries == keys:
        return {"is_causal": True}
    return {"attn_mask": torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(before)}


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)
