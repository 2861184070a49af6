"""Pack comparisons into one flat row, so that the prefix that both sides share is computed once.

For each pair the row contains the whole chosen side, then the rejected side without the shared prefix. The queries of
this second part also attend to the keys of the prefix (`key_positions`, see engine/forward/attention.py), and its
positions continue from the prefix. Scores and gradients equal those of both sides in full, up to rounding.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from engine.forward.attention import shares_prefixes
from engine.forward.responses import Tokens, sequence_scores

Pair = tuple[Tokens, Tokens]
"""token ids of the chosen and the rejected side, each including the prompt"""


def shared_prefix_length(pair: Pair) -> int:
    """Return the length of the shared prefix in tokens, without either side's last token, where its score is read."""
    chosen, rejected = pair
    longest = min(len(chosen), len(rejected)) - 1
    return next((at for at in range(longest) if chosen[at] != rejected[at]), longest)


def pack_pairs(pairs: Sequence[Pair], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Return keyword arguments of a scalar model's forward, which must use an attention that shares prefixes.

    With total the number of tokens in the row: input_ids and position_ids are (1, total) int64; cu_seq_lens_q and
    cu_seq_lens_k (2 × pairs + 1,) int32; key_positions (sum of key lengths,) int64; score_positions (2 × pairs,) int64
    indices into the row, all chosen sides before the rejected ones.
    """
    tokens: list[int] = []
    positions: list[int] = []
    keys: list[int] = []
    query_lengths: list[int] = []
    key_lengths: list[int] = []
    ends: tuple[list[int], list[int]] = ([], [])
    for pair in pairs:
        chosen, rejected = pair
        start, shared = len(tokens), shared_prefix_length(pair)
        own = start + len(chosen)  # start of the rejected side's part
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
    """Return the (pairs, 2) float32 scores of chosen and rejected sides.

    Runs one forward pass if the model's attention shares prefixes. Otherwise both sides are scored in full, which is
    collective: every rank must call it.
    """
    if shares_prefixes(model):
        return model(**pack_pairs(pairs, model.device)).logits.view(2, -1).T
    return sequence_scores(model, [side for pair in pairs for side in pair], budget=sys.maxsize).view(-1, 2)
