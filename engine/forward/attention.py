"""What each attention implementation supports, and which one is used where. No other file decides that.

packed              ours: several sequences in one flat row (`packed_attention` below), full or with a sliding window;
                    the only one with `key_positions`, so that the shared prefix of a pair is in the row only once
flash_attention_2   flash-attn, if it is installed and there is a GPU; packed rows by cumulative lengths
sdpa                torch's; transformers isolates packed sequences by their restarting positions;
                    the only one used for decoding, because it takes a cache and left padding on every device
eager               transformers' plain attention, otherwise like sdpa
fixed               one new token per row over buffers of fixed shape (engine/generation/compiled.py); full attention
                    only
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

from engine.compat import attention_of
from engine.errors import RunError

PACKED, DECODING, FIXED, FLASH = "packed", "sdpa", "fixed", "flash_attention_2"

# Arguments of transformers' attention functions that packed attention can ignore: those of other implementations,
# requests for outputs, and positions, which query and key already contain.
IGNORED_ARGUMENTS = frozenset(
    (
        "position_ids", "position_embeddings", "cache_position", "use_cache", "is_causal", "output_attentions",
        "output_hidden_states", "return_dict", "hidden_states", "logits_to_keep", "num_items_in_batch", "deterministic",
        "output_router_logits", "target_dtype",
    )
)  # fmt: skip


def implementation_of(choice: str) -> str:
    """Return the implementation for a value of `model.attention`; `auto` is flash-attn if it can run, else ours."""
    if choice == "auto":
        return FLASH if torch.cuda.is_available() and is_flash_attn_2_available() else PACKED
    return choice


@contextmanager
def use_attention(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    """Run a model with another attention implementation inside the block."""
    before = attention_of(model)
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def decoding_attention(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Return a context in which the model decodes with a key/value cache and left-padded prompts."""
    return use_attention(model, DECODING)


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Return whether the model's current implementation supports `key_positions`."""
    return attention_of(model) == PACKED


def use_shared_prefixes(model: PreTrainedModel) -> None:
    """Switch permanently to the implementation with `key_positions`; `auto` may be flash-attn, which has none."""
    model.set_attn_implementation(PACKED)


def refuse_unless_full_attention(config: PretrainedConfig) -> None:
    """Raise RunError if a layer does not use the cache of full attention, which `fixed` needs."""
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
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attend causally within each sequence of a flat row: sequence by sequence on a CPU, with varlen_attn on a GPU.

    Shapes: total is the number of tokens in the row; key heads divide heads (grouped-query attention).

    Args:
        query: (1, heads, total, head_dim).
        key, value: (1, key heads, total, head_dim).
        attention_mask: must be None.
        scaling: factor of query · key; None for 1 / √head_dim.
        dropout: probability of dropping an attention weight.
        cu_seq_lens_q, cu_seq_lens_k: (sequences + 1,) int32 cumulative lengths, from `pack` or `pack_pairs`.
        max_length_q, max_length_k: lengths of the longest sequence in tokens.
        key_positions: (sum of key lengths,) indices into the row of each sequence's keys, if they are not those of its
            queries; the queries are then the last of the sequence's positions.
        sliding_window: number of keys that a query attends to, including its own; None for all of them.
        others: arguments that do not change the result (`IGNORED_ARGUMENTS`).

    Returns (1, total, heads, head_dim), and None for the attention weights. Raises ValueError without cumulative
    lengths, and for arguments that would change the result, such as attention sinks.
    """
    if cu_seq_lens_q is None or cu_seq_lens_k is None or max_length_q is None or max_length_k is None:
        raise ValueError("packed attention was called without the sequences' lengths; take the arguments from pack()")
    strange = [name for name, value in others.items() if value is not None and name not in IGNORED_ARGUMENTS]
    if strange or attention_mask is not None or others.get("is_causal") is False:
        what = ", ".join(strange) or ("attention_mask" if attention_mask is not None else "is_causal=False")
        raise ValueError(f"packed attention does not support {what}")
    if key_positions is not None:
        key, value = key.index_select(2, key_positions), value.index_select(2, key_positions)
    grouped = key.shape[1] != query.shape[1]
    if query.is_cuda and value.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0:
        from torch.nn.attention.varlen import varlen_attn

        query, key = (
            query.to(value.dtype),
            key.to(value.dtype),
        )  # under autocast, rotary positions leave them in float32
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        lengths = (cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
        window = (-1 if sliding_window is None else sliding_window - 1, 0)  # keys before a query's own, and after
        out = varlen_attn(q, k, v, *lengths, scale=scaling, window_size=window, enable_gqa=grouped)
        assert isinstance(out, torch.Tensor)  # a tuple only if auxiliary outputs are requested
        return out[None], None
    query_lengths, key_lengths = cu_seq_lens_q.diff().tolist(), cu_seq_lens_k.diff().tolist()
    if len(query_lengths) > 1 and len({*query_lengths, *key_lengths}) == 1:  # equal lengths: one call for all
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
    return out.transpose(1, 2).contiguous(), None  # contiguous, as transformers returns it: some families call view()


def _causal(query: torch.Tensor, key: torch.Tensor, window: int | None) -> dict[str, Any]:
    """Return scaled_dot_product_attention's arguments for causal attention to the last `window` keys (None: to all).

    The last query has the position of the last key.
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
