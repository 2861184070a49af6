"""Prompts with their responses through a model, packed: log-probabilities, values, scores; and plain sequences' loss.

Position p of a flat row predicts token p + 1, so what belongs to a response token (its log-probability, its value) is
read one position before it.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedModel

from engine.dist.collectives import max_over_ranks
from engine.forward.logprobs import Support, TokenLogProbs
from engine.forward.packed import pack

Tokens = Sequence[int]
# Sequences for a forward pass that has none of its own.
NOTHING = [[0]]


@dataclass(frozen=True)
class PackedResponses:
    """Several prompt + response sequences in one flat row."""

    inputs: dict[str, Any]
    """arguments of a model's forward"""
    positions: torch.Tensor
    """(tokens,) where each response token is predicted"""
    targets: torch.Tensor
    """(tokens,) the response tokens"""
    ends: torch.Tensor
    """(sequences,) where each sequence's last token stands"""
    support: Support | None = None
    """what each response token was drawn from, where that was recorded"""

    @property
    def logprob_arguments(self) -> dict[str, Any]:
        return {
            **self.inputs, "logprob_positions": self.positions, "logprob_targets": self.targets,
            "logprob_support": self.support,
        }  # fmt: skip


def pack_responses(
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    device: torch.device,
    supports: Sequence[Sequence[array]] | None = None,
) -> PackedResponses:
    """Lay prompt + response pairs end to end; every prompt and every response has a token at least.

    `supports` holds for each response token the ids that it was drawn from. No pairs make a row of one token of which
    nothing is asked.
    """
    sequences = [[*prompt, *response] for prompt, response in zip(prompts, responses, strict=True)]
    inputs = pack(sequences or NOTHING, device)
    ends = inputs["cu_seq_lens_q"][1:].long()[: len(sequences)] - 1
    spans = [
        torch.arange(end - len(response), end)
        for end, response in zip(ends.tolist(), responses, strict=True)
    ]  # fmt: skip
    positions = torch.cat([torch.arange(0), *spans]).to(device)
    return PackedResponses(inputs, positions, inputs["input_ids"][0, positions + 1], ends, _joined(supports, device))


def _joined(supports: Sequence[Sequence[array]] | None, device: torch.device) -> Support | None:
    """The supports of several responses as one."""
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
    """Consecutive runs of sequences of at most `budget` tokens together (a longer one stands alone).

    A sharded model goes forward in all processes at once: where others have more runs, empty ones make up for them.
    """
    starts, tokens = [], budget + 1
    for at, length in enumerate(lengths):
        if tokens + length > budget:
            starts.append(at)
            tokens = 0
        tokens += length
    runs = [slice(start, end) for start, end in pairwise([*starts, len(lengths)])]
    return runs + [slice(0, 0)] * (max_over_ranks(len(runs)) - len(runs))


def _packs(
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    device: torch.device,
    budget: int,
    supports: Sequence[Sequence[array]] | None = None,
) -> Iterator[PackedResponses]:
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    for run in micro_batches(lengths, budget):
        yield pack_responses(prompts[run], responses[run], device, supports and supports[run])


@torch.no_grad()
def response_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[Tokens],
    responses: Sequence[Tokens],
    temperature: float,
    budget: int,
    supports: Sequence[Sequence[array]] | None = None,
    with_entropy: bool = True,
) -> TokenLogProbs:
    """log π(y_t | x, y_<t) of every response token, in order, and the entropies there; `budget` tokens a forward."""
    parts = [
        model(**row.logprob_arguments, temperature=temperature, with_entropy=with_entropy)
        for row in _packs(prompts, responses, model.device, budget, supports)
    ]
    entropy = torch.cat([p.entropy for p in parts]) if with_entropy else None
    return TokenLogProbs(torch.cat([p.logprobs for p in parts]), entropy)


@torch.no_grad()
def response_values(
    model: PreTrainedModel, prompts: Sequence[Tokens], responses: Sequence[Tokens], budget: int
) -> torch.Tensor:
    """V of the state before every response token, in order: (tokens,)."""
    return torch.cat(
        [
            model(**row.inputs, score_positions=row.positions).logits[:, 0]
            for row in _packs(prompts, responses, model.device, budget)
        ]
    )


@torch.no_grad()
def sequence_scores(model: PreTrainedModel, sequences: Sequence[Tokens], budget: int) -> torch.Tensor:
    """(sequences,) scores of a scalar model, read at each sequence's last token (which must be its <|im_end|>)."""
    parts = [torch.zeros(0, device=model.device)]
    for run in micro_batches([len(s) for s in sequences], budget):
        inputs = pack(sequences[run] or NOTHING, model.device)
        ends = inputs["cu_seq_lens_q"][1:].long()[: len(sequences[run])] - 1
        parts.append(model(**inputs, score_positions=ends).logits[:, 0])
    return torch.cat(parts)


@torch.no_grad()
def sequence_nll(model: PreTrainedModel, sequences: Sequence[Tokens], budget: int) -> tuple[float, int]:
    """Summed negative log-likelihood in nats of all tokens but each sequence's first, and how many these are."""
    total, tokens = 0.0, 0
    for run in micro_batches([len(s) for s in sequences], budget):
        row = pack_text(sequences[run], model.device)
        total -= float(model(**row.logprob_arguments, with_entropy=False).logprobs.sum(dtype=torch.float64))
        tokens += len(row.targets)
    return total, tokens


def pack_text(sequences: Sequence[Tokens], device: torch.device) -> PackedResponses:
    """Plain sequences of two tokens or more: the first token is the prompt, the rest is predicted."""
    return pack_responses([s[:1] for s in sequences], [s[1:] for s in sequences], device)
