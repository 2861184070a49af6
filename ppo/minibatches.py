"""Split a rollout into minibatches (one update each), and those into packed micro-batches (one forward pass each)."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from engine.dist.collectives import take_share
from engine.forward.responses import PackedResponses, micro_batches_on_all_ranks, pack_responses
from ppo.assess import Assessment
from ppo.recipe import Algorithm
from ppo.rollout import Rollout


@dataclass(frozen=True)
class MicroBatch:
    """Several responses packed into one row; each tensor is (tokens,), one entry per response token in packed order."""

    packed: PackedResponses
    old_logprobs: torch.Tensor
    old_values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    importance: torch.Tensor
    weight: torch.Tensor
    """weight of each token in the mean losses: 1, or as `token_weights` for ppo.loss_mean=sequence"""


@dataclass(frozen=True)
class Minibatch:
    """The responses of one update."""

    tokens: int
    """response tokens on all ranks: the denominator of the mean losses"""
    micro_batches: list[MicroBatch]
    """those of this rank; every rank has the same number, some may be empty"""


def minibatch_rows(rows: int, ppo: Algorithm, seed: int, step: int) -> Iterator[list[int]]:
    """Yield the row indices of each minibatch, epoch by epoch; every epoch visits each of the `rows` responses once.

    The order depends on (seed, step, epoch) only.
    """
    size = rows // ppo.minibatches
    for epoch in range(ppo.epochs):
        order = list(range(rows))
        random.Random(f"{seed}/{step}/{epoch}").shuffle(order)
        for at in range(0, rows, size):
            yield order[at : at + size]


def pack_minibatch(rollout: Rollout, assessment: Assessment, rows: list[int], ppo: Algorithm) -> Minibatch:
    """Pack this rank's share of a minibatch's rows (collective: every rank must call it)."""
    tokens = int(assessment.mask[rows].sum())
    weights = torch.ones_like(assessment.old_values)
    if ppo.loss_mean == "sequence":
        weights = token_weights(assessment.mask, tokens, len(rows))
    share = take_share(rows)
    prompts = [rollout.rows[r].input_ids for r in share]
    responses = [rollout.responses[r].tokens for r in share]
    recorded = rollout.supports
    supports = recorded and [recorded[r] for r in share]
    lengths = [len(x) + len(y) for x, y in zip(prompts, responses, strict=True)]
    micro_batches = []
    for run in micro_batches_on_all_ranks(lengths, ppo.micro_batch_tokens):
        mask = assessment.mask[share[run]]
        micro_batches.append(
            MicroBatch(
                packed=pack_responses(prompts[run], responses[run], mask.device, supports and supports[run]),
                old_logprobs=assessment.old_logprobs[share[run]][mask],
                old_values=assessment.old_values[share[run]][mask],
                advantages=assessment.advantages[share[run]][mask],
                returns=assessment.returns[share[run]][mask],
                importance=assessment.importance[share[run]][mask],
                weight=weights[share[run]][mask],
            )
        )
    return Minibatch(tokens, micro_batches)


def token_weights(mask: torch.Tensor, tokens: int, responses: int) -> torch.Tensor:
    """Return the weights that turn a mean over tokens into a mean over responses: w = tokens / (responses · T).

    T is the length of a row of `mask`, (batch, time), in tokens. `tokens` and `responses` are those of the minibatch.
    Then Σ_t w_t x_t / tokens is the mean over responses of the mean of x over their tokens. Returns (batch, time).
    """
    return (tokens / (responses * mask.sum(1, keepdim=True))).expand(mask.shape)
