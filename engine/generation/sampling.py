"""Sampling responses: our own decode loop.

The random number for token t of response k to query q is a function of (seed, step, q, k, t, attempt) alone, so batch
size, order, finished rows and processes change nothing about it. The K responses of a query share their prompt's
prefill, and finished rows leave the batch.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from config.sections import Sampling
from engine.forward.packed import attention
from engine.generation.compiled import Compiled
from engine.generation.draws import draw_token, uniform

# Rows leave the batch once this share of them has finished: each leaving copies the cache.
LEAVING = 0.2


@dataclass(frozen=True)
class Response:
    """The tokens of one response, its end token included if it has one."""

    tokens: list[int]
    ended: bool
    """whether it ends with the end token; else it ran into the length limit, or stopped otherwise"""
    logprobs: list[float] | None = field(default=None, compare=False)
    """the sampler's own of each token, at its temperature and of the whole distribution, or within `supports` where
    there are some; good to rounding, which neighbours change; None where an engine tells something else"""
    supports: list[array] | None = None
    """for each token the ids it was drawn from, where they were asked for"""


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    responses: int,
    end: int,
    stops: Sequence[int],
    seed: int,
    step: int,
    query_ids: Sequence[int],
    record: bool = False,
    agree: Callable[[torch.Tensor], torch.Tensor] | None = None,
    compiled: Compiled | None = None,
) -> list[list[Response]]:
    """`responses` responses to each prompt, in the prompts' order.

    `end` is the token that ends a response well, `stops` all tokens that end it. `query_ids` name the queries for the
    random numbers. `record` keeps the set that each token was drawn from. `agree` is given the tokens drawn and returns
    those to go on with, where processes write together. `compiled`, made of the same model, computes all tokens but the
    first. The model must not be wrapped; while it samples it is in evaluation mode.
    """
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding in each batch
    per_batch = max(1, sampling.batch_size // responses)
    sampled: dict[int, list[Response]] = {}
    ready = attention(model, "sdpa")
    if compiled is not None:
        longest = max(map(len, prompts), default=0)
        ready = compiled.ready(min(per_batch, len(prompts)) * responses, longest + sampling.max_new_tokens)
    with ready, evaluating(model):
        for at in range(0, len(prompts), per_batch):
            chosen = by_length[at : at + per_batch]
            ids = torch.tensor([query_ids[i] for i in chosen], device=model.device).repeat_interleave(responses)
            turns = torch.arange(responses, device=model.device).repeat(len(chosen))
            rows = _decode(
                model, [prompts[i] for i in chosen], sampling, responses, stops, lambda rows, t, attempt, ids=ids,
                turns=turns: uniform(seed, step, ids[rows], turns[rows], t, attempt), record, agree, compiled,
            )  # fmt: skip
            for place, i in enumerate(chosen):
                mine = rows[place * responses : (place + 1) * responses]
                sampled[i] = [Response(row.tokens, row.tokens[-1] == end, row.logprobs, row.supports) for row in mine]
    return [sampled[i] for i in range(len(prompts))]


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """A model in training mode that recomputes its activations would leave its cache empty, without an error."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@dataclass
class _Row:
    """What has been written of one response."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    supports: list[array] | None = None


class Cache(DynamicCache):
    """Keys and values in the type that attention reads them in: autocast would cast all of them at every token."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.is_autocast_enabled(key_states.device.type):
            low = torch.get_autocast_dtype(key_states.device.type)
            key_states, value_states = key_states.to(low), value_states.to(low)
        return super().update(key_states, value_states, *args, **kwargs)


class GrowingBatch:
    """Rows that are being written, over a cache that grows by a column a call."""

    def __init__(self, model: PreTrainedModel, cache: DynamicCache, mask: torch.Tensor, responses: int):
        cache.batch_repeat_interleave(responses)
        self.model, self.cache, self.mask = model, cache, mask.repeat_interleave(responses, 0)
        self.position = self.mask.sum(1, keepdim=True) - 1

    def may_leave(self, left: int) -> bool:
        """Whether so few rows are left that it pays to copy the cache."""
        return left <= (1 - LEAVING) * len(self.mask)

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with these alone."""
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """(rows, vocabulary) logits after one more token of each row, (rows,)."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        self.position = self.position + 1
        return _last_logits(self.model, tokens[:, None], self.mask, self.position, self.cache)


def _decode(model, prompts, sampling, responses, stops, uniform_at, record, agree, compiled) -> list[_Row]:
    """The rows of one batch, (prompts × responses) of them; each stops after the first of `stops`."""
    device, longest = model.device, max(map(len, prompts))
    # Left padding: what is generated is appended, so the last prompt token must stand in the last column.
    tokens = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    cache = Cache(config=model.config)
    positions = (mask.cumsum(1) - 1).clamp_(min=0)
    logits = _last_logits(model, tokens, mask, positions, cache).repeat_interleave(responses, 0)
    begin = compiled.begin if compiled else partial(GrowingBatch, model)
    batch = begin(cache, mask, responses)

    stop_ids = torch.tensor(list(stops), device=device)
    active = torch.arange(len(logits), device=device)  # which response each row of the batch is
    running = torch.ones(len(logits), dtype=torch.bool, device=device)
    columns: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    rows = [_Row(supports=[] if record else None) for _ in range(len(prompts) * responses)]
    for t in range(sampling.max_new_tokens):
        draw = draw_token(
            logits, sampling.top_p, sampling.temperature,
            lambda rows, attempt, t=t, active=active: uniform_at(active[rows], t, attempt), record=record,
        )  # fmt: skip
        drawn = draw.tokens if agree is None else agree(draw.tokens)
        columns.append((active[running], drawn[running], draw.logprobs[running]))
        if draw.nucleus is not None:
            _keep_supports(rows, active[running], draw.nucleus[running])
        running = running & ~torch.isin(drawn, stop_ids)
        left = int(running.sum())
        if left == 0 or t + 1 == sampling.max_new_tokens:
            break
        if batch.may_leave(left):
            keep = running.nonzero()[:, 0]
            batch.keep(keep)
            active, drawn = active[keep], drawn[keep]
            running = torch.ones_like(active, dtype=torch.bool)
        logits = batch(drawn)

    for column in columns:
        for row, token, logprob in zip(*(values.tolist() for values in column), strict=True):
            rows[row].tokens.append(token)
            rows[row].logprobs.append(logprob)
    return rows


def _keep_supports(rows: list[_Row], who: torch.Tensor, inside: torch.Tensor) -> None:
    """Note the ids that some rows' next tokens come from; `inside` is (rows, vocabulary)."""
    ids = array("i", inside.nonzero()[:, 1].tolist())
    ends = inside.sum(1).cumsum(0).tolist()
    for row, start, end in zip(who.tolist(), [0, *ends[:-1]], ends, strict=True):
        rows[row].supports.append(ids[start:end])


def _last_logits(model, tokens, mask, positions, cache) -> torch.Tensor:
    return model(
        input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]  # fmt: skip
