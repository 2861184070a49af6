"""A rollout cut into minibatches (one update each) and these into packed micro-batches (one forward each)."""

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
    """Some responses in one packed row; the tensors are (tokens,), of their response tokens in order."""

    packed: PackedResponses
    old_logprobs: torch.Tensor
    old_values: torch.Tensor
    advantages: torch.Tensor
    returns: torch.Tensor
    importance: torch.Tensor
    weight: torch.Tensor
    """each token's weight in the means of the losses"""


@dataclass(frozen=True)
class Minibatch:
    """The responses of one update."""

    tokens: int
    """response tokens on all ranks: the denominator of the losses' means"""
    micro_batches: list[MicroBatch]
    """this rank's"""


def minibatch_rows(rows: int, ppo: Algorithm, seed: int, step: int) -> Iterator[list[int]]:
    """Yield the row indices of every minibatch of every epoch; each epoch visits each of `rows` rows once.

    The order is a function of (seed, step, epoch) alone.
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
    supports = rollout.supports and [rollout.responses[r].supports for r in share]
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
    """Return the weights that turn a mean over tokens into one over responses: tokens / (responses · T).

    mask is (batch, time), T each row's length; the minibatch has `tokens` tokens in `responses` responses. Returns
    (batch, time).
    """
    return (tokens / (responses * mask.sum(1, keepdim=True))).expand(mask.shape)
