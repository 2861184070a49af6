"""Comparisons in one flat row, what both sides begin with computed once.

Of every pair the row holds the chosen side whole and then what is the rejected side's own; attention hands that part
the keys of the shared beginning as well (`key_positions`, see engine/forward/packed.py), and its positions go on from
there. Scores and gradients are those of both sides written out, up to rounding.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from engine.forward.packed import PACKED
from engine.forward.responses import Tokens, sequence_scores

Pair = tuple[Tokens, Tokens]
"""chosen and rejected, each with the prompt before it"""


def shared_tokens(pair: Pair) -> int:
    """How many tokens both sides begin with; each keeps one of its own at the end at least, where its score is read."""
    chosen, rejected = pair
    most = min(len(chosen), len(rejected)) - 1
    return next((at for at in range(most) if chosen[at] != rejected[at]), most)


def pack_pairs(pairs: Sequence[Pair], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Keyword arguments of a scalar model's forward, to run under the implementation `packed` and no other.

    input_ids and position_ids are (1, total); score_positions (2 × pairs,), the chosen sides before the rejected ones.
    """
    tokens, positions, keys, query_lengths, key_lengths = [], [], [], [], []
    ends: tuple[list[int], list[int]] = ([], [])
    for pair in pairs:
        chosen, rejected = pair
        start, shared = len(tokens), shared_tokens(pair)
        own = start + len(chosen)  # where the rejected side's own part begins
        tokens += [*chosen, *rejected[shared:]]
        positions += [*range(len(chosen)), *range(shared, len(rejected))]
        keys += [*range(start, own), *range(start, start + shared), *range(own, len(tokens))]
        query_lengths += [len(chosen), len(rejected) - shared]
        key_lengths += [len(chosen), len(rejected)]
        ends[0].append(own - 1)
        ends[1].append(len(tokens) - 1)
    return {
        "input_ids": torch.tensor([tokens], device=device),
        "position_ids": torch.tensor([positions], device=device),
        "cu_seq_lens_q": torch.tensor([0, *query_lengths], device=device).cumsum(0, dtype=torch.int32),
        "cu_seq_lens_k": torch.tensor([0, *key_lengths], device=device).cumsum(0, dtype=torch.int32),
        "max_length_q": max(query_lengths),
        "max_length_k": max(key_lengths),
        "key_positions": torch.tensor(keys, device=device),
        "score_positions": torch.tensor([*ends[0], *ends[1]], device=device),
        "use_cache": False,
    }


@torch.no_grad()
def pair_scores(model: PreTrainedModel, pairs: Sequence[Pair]) -> torch.Tensor:
    """(pairs, 2) scores of both sides, by one forward; under other implementations than `packed` plainly."""
    if model.config._attn_implementation == PACKED:
        return model(**pack_pairs(pairs, model.device)).logits.view(2, -1).T
    return sequence_scores(model, [side for pair in pairs for side in pair], budget=sys.maxsize).view(-1, 2)
