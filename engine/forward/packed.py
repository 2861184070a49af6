"""Several sequences in one flat row, none of which sees another.

Every packed forward of the project takes its arguments from `pack` and runs under one of the implementations that
`attention_for` returns. What makes it safe is said by the arguments themselves: no attention mask and no cache
(with either, transformers lets packed neighbours attend to each other without a word), positions that restart, and
cumulative lengths in flash-attention's own names. Our implementation, `packed`, calls attention once per sequence on
a CPU and torch's variable-length kernel on a GPU; it alone knows `key_positions`, by which sequences share a beginning
that stands in the row once (engine/forward/pairs.py).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.utils import is_flash_attn_2_available

PACKED = "packed"


def pack(sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Keyword arguments of a model's forward over `sequences` laid end to end.

    input_ids and position_ids are (1, total), cu_seq_lens_* (num_sequences + 1,) in int32. No sequence may be
    empty.
    """
    return layout([len(sequence) for sequence in sequences], device) | {
        "input_ids": torch.tensor([[token for sequence in sequences for token in sequence]], device=device)
    }


def layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> dict[str, Any]:
    """The part of `pack` that the lengths alone decide."""
    if not lengths or min(lengths) < 1:
        raise ValueError(f"packed sequences need a token each; got lengths {list(lengths)}")
    ends = torch.tensor([0, *lengths]).cumsum(0)
    positions = torch.arange(int(ends[-1])) - ends[:-1].repeat_interleave(torch.tensor(lengths))
    boundaries = ends.to(torch.int32).to(device)
    return {
        "position_ids": positions[None].to(device),
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "use_cache": False,
    }


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
    """Causal attention within each sequence of a flat row.

    query is (1, heads, total, head_dim), key and value may have fewer heads; returns (1, total, heads, head_dim).
    `key_positions` (sum of key lengths,) says where each sequence's keys stand, if not where its queries do; its
    queries are then the last of its positions.
    """
    if cu_seq_lens_q is None or cu_seq_lens_k is None or max_length_q is None or max_length_k is None:
        raise ValueError("packed attention was called without the sequences' lengths; take the arguments from pack()")
    if sliding_window is not None and sliding_window < max_length_k:
        raise ValueError(f"packed attention has no sliding window ({sliding_window}); set model.attention=sdpa")
    if key_positions is not None:
        key, value = key.index_select(2, key_positions), value.index_select(2, key_positions)
    grouped = key.shape[1] != query.shape[1]
    if query.is_cuda and value.dtype in (torch.bfloat16, torch.float16) and dropout == 0.0:
        from torch.nn.attention.varlen import varlen_attn

        query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast rotation leaves them in float32
        q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        out = varlen_attn(
            q, k, v, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k,
            scale=scaling, window_size=(-1, 0), enable_gqa=grouped,
        )  # fmt: skip
        return out[None], None
    lengths, key_lengths = cu_seq_lens_q.diff().tolist(), cu_seq_lens_k.diff().tolist()
    if len(lengths) > 1 and len({*lengths, *key_lengths}) == 1:  # one call for all of them
        q, k, v = (tensor[0].unflatten(1, (len(lengths), -1)).transpose(0, 1) for tensor in (query, key, value))
        out = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        return out.transpose(1, 2).flatten(0, 1)[None], None
    pieces = zip(query.split(lengths, 2), key.split(key_lengths, 2), value.split(key_lengths, 2), strict=True)
    out = torch.cat(
        [
            F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, scale=scaling, enable_gqa=grouped, **_causal(q, k)
            )
            for q, k, v in pieces
        ],
        dim=2,
    )
    return out.transpose(1, 2), None


def _causal(query: torch.Tensor, key: torch.Tensor) -> dict[str, Any]:
    """Each query sees the keys up to its own, of which the last one is the last query's."""
    queries, keys = query.shape[2], key.shape[2]
    if queries == keys:
        return {"is_causal": True}
    return {"attn_mask": torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)}


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, lambda *_, **__: None)


def attention_for(choice: str) -> str:
    """The implementation behind `model.attention`: flash-attn where it is installed and there is a GPU, else ours."""
    if choice == "auto":
        return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else PACKED
    return choice


class attention:  # noqa: N801 - reads as a word at the call: with attention(model, "sdpa")
    """Run a model under another attention implementation for a while, decoding under sdpa for one."""

    def __init__(self, model: PreTrainedModel, implementation: str):
        self.model, self.implementation = model, implementation

    def __enter__(self) -> None:
        self.before = self.model.config._attn_implementation
        self.model.set_attn_implementation(self.implementation)

    def __exit__(self, *_: object) -> None:
        self.model.set_attn_implementation(self.before)
