"""Compute log-probabilities, values and scores of packed prompts and responses.

Position p of a flat row predicts token p + 1, so the log-probability and the value of a response token are read one
position before it. Functions that run a model are collective, because a sharded model's forward is: every rank must
call them, and ranks with fewer micro-batches than others run empty ones.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch

from engine.dist.collectives import max_over_ranks
from engine.forward.logprobs import Support, TokenLogProbs
from engine.forward.packed import pack

Tokens = Sequence[int]
# Tokens per forward pass without gradients, where no recipe key sets it.
TOKENS_PER_FORWARD = 16384
# The sequences of a forward pass that a rank runs only because other ranks run one.
EMPTY_PASS = [[0]]


@dataclass(frozen=True)
class PackedResponses:
    """Several prompt + response sequences in one flat row; in shapes, `tokens` is the number of response tokens."""

    inputs: dict[str, Any]
    """arguments of a model's forward, from `pack`"""
    positions: torch.Tensor
    """(tokens,) int64: indices into the row at which each response token is predicted"""
    targets: torch.Tensor
    """(tokens,) int64: ids of the response tokens"""
    support: Support | None = None
    """the set that each response token was drawn from; None if it was not recorded"""

    @property
    def logprob_arguments(self) -> dict[str, Any]:
        """Return the arguments of a forward that returns the log-probabilities of `targets`."""
        return {
            **self.inputs,
            "logprob_positions": self.positions,
            "logprob_targets": self.targets,
            "logprob_support": self.support,
        }


def pack_responses(
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    device: torch.device,
    supports: Sequence[Sequence[array]] | None = None,
) -> PackedResponses:
    """Pack prompt + response pairs end to end; every prompt and every response has at least one token.

    `supports` lists for each response, token by token, the ids that the token was drawn from. Without pairs, the row
    has one token and no positions.
    """
    sequences = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    inputs = pack(sequences or EMPTY_PASS, device)
    ends = inputs["cu_seq_lens_q"][1:].tolist()[: len(sequences)]
    spans = [torch.arange(end - 1 - len(response), end - 1) for end, response in zip(ends, responses, strict=True)]
    positions = torch.cat([torch.arange(0), *spans]).to(device)
    return PackedResponses(inputs, positions, inputs["input_ids"][0, positions + 1], _joined(supports, device))


def _joined(supports: Sequence[Sequence[array]] | None, device: torch.device) -> Support | None:
    """Return the supports of several responses as one Support."""
    if supports is None:
        return None
    sets = [ids for response in supports for ids in response]
    flat = array("i")
    for ids in sets:
        flat += ids
    return Support(
        torch.tensor(flat, dtype=torch.long, device=device), torch.tensor([len(ids) for ids in sets], device=device)
    )


def micro_batches(lengths: Sequence[int], budget: int) -> list[slice]:
    """Split sequences of `lengths` tokens into slices of at most `budget` tokens; a longer sequence gets its own."""
    starts, tokens = [], budget + 1
    for at, length in enumerate(lengths):
        if tokens + length > budget:
            starts.append(at)
            tokens = 0
        tokens += length
    return [slice(start, end) for start, end in pairwise([*starts, len(lengths)])]


def micro_batches_on_all_ranks(lengths: Sequence[int], budget: int) -> list[slice]:
    """Split this rank's sequences as `micro_batches` does, then add empty slices until all ranks have equally many.

    Collective: every rank must call it. A sharded model's forward runs on all ranks at once, so all need as many.
    """
    runs = micro_batches(lengths, budget)
    return runs + [slice(0, 0)] * (max_over_ranks(len(runs)) - len(runs))


def _packed_on_all_ranks(
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    device: torch.device,
    budget: int,
    supports: Sequence[Sequence[array]] | None = None,
) -> Iterator[PackedResponses]:
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    for run in micro_batches_on_all_ranks(lengths, budget):
        yield pack_responses(prompts[run], responses[run], device, supports and supports[run])


def device_of(model: torch.nn.Module) -> torch.device:
    """Return the device of a model of transformers, also if it is wrapped for training."""
    return cast(torch.device, model.device)


@torch.no_grad()
def response_logprobs(
    model: torch.nn.Module,
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    temperature: float,
    budget: int,
    supports: Sequence[Sequence[array]] | None = None,
    with_entropy: bool = True,
) -> TokenLogProbs:
    """Return log π(y_t | x, y_<t) at `temperature` of every response token, in order, and the entropy of π there.

    Both are (tokens,) float32 in nats; tokens is the number of tokens in all responses. The entropy is None without
    `with_entropy`. A forward pass has at most `budget` tokens, or one longer sequence. Collective: every rank must call
    it.
    """
    parts = [
        model(**row.logprob_arguments, temperature=temperature, with_entropy=with_entropy)
        for row in _packed_on_all_ranks(prompts, responses, device_of(model), budget, supports)
    ]
    entropy = torch.cat([p.entropy for p in parts]) if with_entropy else None
    return TokenLogProbs(torch.cat([p.logprobs for p in parts]), entropy)


@torch.no_grad()
def response_values(
    model: torch.nn.Module, prompts: Sequence[Tokens], responses: Sequence[Tokens], budget: int
) -> torch.Tensor:
    """Return the value V of the state before every response token, in order: (tokens,) float32, in units of the reward.

    A forward pass has at most `budget` tokens, or one longer sequence. Collective: every rank must call it.
    """
    return torch.cat(
        [
            model(**row.inputs, score_positions=row.positions).logits[:, 0]
            for row in _packed_on_all_ranks(prompts, responses, device_of(model), budget)
        ]
    )


@torch.no_grad()
def sequence_scores(model: torch.nn.Module, sequences: Sequence[Tokens], budget: int) -> torch.Tensor:
    """Return a scalar model's scores, (sequences,) float32, read at each sequence's last token, its <|im_end|>.

    A forward pass has at most `budget` tokens, or one longer sequence. Collective: every rank must call it.
    """
    parts = [torch.zeros(0, device=device_of(model))]
    for run in micro_batches_on_all_ranks([len(s) for s in sequences], budget):
        inputs = pack(sequences[run] or EMPTY_PASS, device_of(model))
        ends = inputs["cu_seq_lens_q"][1:].long()[: len(sequences[run])] - 1
        parts.append(model(**inputs, score_positions=ends).logits[:, 0])
    return torch.cat(parts)


def pack_text(sequences: Sequence[Tokens], device: torch.device) -> PackedResponses:
    """Pack plain sequences of at least two tokens; all tokens but the first of each are targets."""
    return pack_responses([s[:1] for s in sequences], [s[1:] for s in sequences], device)
