"""Pack several sequences into one flat row in which none attends to another.

Every packed forward pass of the project takes its arguments from `pack`. The arguments keep the sequences apart: no
attention mask and no cache (with either, transformers lets packed sequences attend to each other without an error),
positions that restart at 0, and cumulative lengths under flash-attention's names. The attention implementations that
read them are in engine/forward/attention.py.
"""

from collections.abc import Sequence
from typing import Any

import torch


def pack(sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the keyword arguments of a model's forward over `sequences` of token ids, laid end to end.

    With total the number of tokens in all sequences: input_ids and position_ids are (1, total) int64, cu_seq_lens_q
    and cu_seq_lens_k (sequences + 1,) int32, max_length_q and max_length_k ints. Raises ValueError for an empty
    sequence, and if there is no sequence.
    """
    return layout([len(sequence) for sequence in sequences], device) | {
        "input_ids": torch.tensor([[token for sequence in sequences for token in sequence]], device=device)
    }


def layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the arguments of `pack` that depend only on the sequences' lengths in tokens."""
    if not lengths or min(lengths) < 1:
        raise ValueError(f"packed sequences need at least one token each; got lengths {list(lengths)}")
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
