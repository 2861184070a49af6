"""Several sequences in one flat row, none of which attends to another.

Every packed forward of the project takes its arguments from `pack`. What makes it safe is in the arguments themselves:
no attention mask and no cache (with either, transformers lets packed neighbours attend to each other without an
error), positions that restart, and cumulative lengths in flash-attention's own names. The attention implementations
that read them stand in engine/forward/attention.py.
"""

from collections.abc import Sequence
from typing import Any

import torch


def pack(sequences: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the keyword arguments of a model's forward over `sequences` laid end to end.

    input_ids and position_ids are (1, total), cu_seq_lens_* (sequences + 1,) in int32. ValueError for an empty
    sequence.
    """
    return layout([len(sequence) for sequence in sequences], device) | {
        "input_ids": torch.tensor([[token for sequence in sequences for token in sequence]], device=device)
    }


def layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return the part of `pack` that depends on the lengths alone."""
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
