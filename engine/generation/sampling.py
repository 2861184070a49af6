"""Generate responses with our own decode loop.

The random number of each token depends only on the token that it is for (engine/generation/streams.py), so batch size,
order, finished rows and the number of ranks do not change it. The K responses to a query share their prompt's prefill,
and finished rows leave the batch.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from transformers import DynamicCache, PreTrainedModel

from config.sections import Sampling
from engine.forward.attention import decoding_attention
from engine.generation.compiled import CompiledDecoder
from engine.generation.draws import draw_token
from engine.generation.request import GenerationRequest, Response

# Finished rows leave the batch once they are this share of it, because the cache is copied each time.
FINISHED_SHARE = 0.2


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    request: GenerationRequest,
    sampling: Sampling,
    *,
    end: int,
    stops: Sequence[int],
    agree: Callable[[torch.Tensor], torch.Tensor] | None = None,
    compiled: CompiledDecoder | None = None,
) -> list[list[Response]]:
    """Return the responses to each prompt of `request`, in the prompts' order.

    Args:
        model: an unwrapped causal LM; it is in evaluation mode while it generates.
        end: id of the token that marks a response as ended.
        stops: ids of all tokens that stop a response, including `end`.
        agree: takes the (rows,) token ids drawn and returns those to continue with, for ranks that decode together.
        compiled: computes all tokens but the first; it must have been created from `model`.
    """
    by_length = sorted(
        range(len(request.prompts)), key=lambda i: len(request.prompts[i])
    )  # similar lengths need little padding
    per_batch = max(1, sampling.batch_size // request.responses)
    sampled: dict[int, list[Response]] = {}
    if compiled is None:
        attention = decoding_attention(model)
    else:
        longest = max(map(len, request.prompts), default=0)
        rows = min(per_batch, len(request.prompts)) * request.responses
        attention = compiled.prepared(rows, longest + sampling.max_new_tokens)
    with attention, evaluation_mode(model):
        for at in range(0, len(request.prompts), per_batch):
            chosen = by_length[at : at + per_batch]
            batch = replace(
                request, prompts=[request.prompts[i] for i in chosen], query_ids=[request.query_ids[i] for i in chosen]
            )
            found = _decode(model, batch, sampling, stops, agree, compiled)
            for place, i in enumerate(chosen):
                own = found[place * request.responses : (place + 1) * request.responses]
                sampled[i] = [Response(row.tokens, row.tokens[-1] == end, row.logprobs, row.supports) for row in own]
    return [sampled[i] for i in range(len(request.prompts))]


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block.

    In training mode, a model that recomputes its activations leaves its cache empty without an error.
    """
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


class DecodingBatch(Protocol):
    """The rows that are being decoded, with their keys and values."""

    def should_shrink(self, rows: int) -> bool:
        """Return whether it is worth dropping finished rows when `rows` are unfinished."""

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these, given as indices into the current rows."""

    def next_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, (rows,); return the (rows, vocabulary) logits after it."""


class Cache(DynamicCache):
    """Keys and values in the dtype in which attention reads them; autocast would cast all of them at every token."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.is_autocast_enabled(key_states.device.type):
            low = torch.get_autocast_dtype(key_states.device.type)
            key_states, value_states = key_states.to(low), value_states.to(low)
        return super().update(key_states, value_states, *args, **kwargs)


class GrowingBatch:
    """A DecodingBatch over a cache that grows by one column per token."""

    def __init__(self, model: PreTrainedModel, cache: DynamicCache, mask: torch.Tensor, responses: int):
        """Take the prefilled `cache` and `mask` (prompts, longest); each prompt is repeated for its responses."""
        cache.batch_repeat_interleave(responses)
        self.model, self.cache, self.mask = model, cache, mask.repeat_interleave(responses, 0)
        self.position = self.mask.sum(1, keepdim=True) - 1

    def should_shrink(self, rows: int) -> bool:
        return rows <= (1 - FINISHED_SHARE) * len(self.mask)

    def keep(self, rows: torch.Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask, self.position = self.mask[rows], self.position[rows]

    def next_logits(self, tokens: torch.Tensor) -> torch.Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        self.position = self.position + 1
        return _last_logits(self.model, tokens[:, None], self.mask, self.position, self.cache)


@dataclass
class _Row:
    """The part of one response that has been generated so far."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    supports: list[array] | None = None


def _decode(
    model: PreTrainedModel,
    request: GenerationRequest,
    sampling: Sampling,
    stops: Sequence[int],
    agree: Callable[[torch.Tensor], torch.Tensor] | None,
    compiled: CompiledDecoder | None,
) -> list[_Row]:
    """Generate one batch of prompts × responses rows, a prompt's responses next to each other."""
    logits, batch = _prefill(model, request, compiled)
    queries = torch.tensor(list(request.query_ids), device=model.device).repeat_interleave(request.responses)
    responses = torch.arange(request.responses, device=model.device).repeat(len(request.prompts))
    stop_ids = torch.tensor(list(stops), device=model.device)

    active = torch.arange(len(logits), device=model.device)  # which response each row of the batch is
    running = torch.ones(len(logits), dtype=torch.bool, device=model.device)
    columns: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    rows = [_Row(supports=[] if request.record_supports else None) for _ in range(len(logits))]
    for t in range(sampling.max_new_tokens):
        numbers = request.stream.at_token(queries[active], responses[active], t)
        draw = draw_token(logits, sampling.top_p, sampling.temperature, numbers, record=request.record_supports)
        tokens = draw.tokens if agree is None else agree(draw.tokens)
        columns.append((active[running], tokens[running], draw.logprobs[running]))
        if draw.nucleus is not None:
            _record_supports(rows, active[running], draw.nucleus[running])
        running = running & ~torch.isin(tokens, stop_ids)
        unfinished = int(running.sum())
        if unfinished == 0 or t + 1 == sampling.max_new_tokens:
            break
        if batch.should_shrink(unfinished):
            kept = running.nonzero()[:, 0]
            batch.keep(kept)
            active, tokens = active[kept], tokens[kept]
            running = torch.ones_like(active, dtype=torch.bool)
        logits = batch.next_logits(tokens)

    for column in columns:
        for row, token, logprob in zip(*(values.tolist() for values in column), strict=True):
            rows[row].tokens.append(token)
            rows[row].logprobs.append(logprob)
    return rows


def _prefill(
    model: PreTrainedModel, request: GenerationRequest, compiled: CompiledDecoder | None
) -> tuple[torch.Tensor, DecodingBatch]:
    """Run the prompts once; return (rows, vocabulary) logits for the first token of each response, and the batch."""
    device, longest = model.device, max(map(len, request.prompts))
    # Generation appends, so the last prompt token must be in the last column: padding is on the left.
    tokens = torch.tensor([[0] * (longest - len(p)) + list(p) for p in request.prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in request.prompts], device=device)
    positions = (mask.cumsum(1) - 1).clamp_(min=0)
    cache = Cache(config=model.config)
    logits = _last_logits(model, tokens, mask, positions, cache).repeat_interleave(request.responses, 0)
    if compiled is not None:
        return logits, compiled.begin(cache, mask, request.responses)
    return logits, GrowingBatch(model, cache, mask, request.responses)


def _record_supports(rows: list[_Row], which: torch.Tensor, inside: torch.Tensor) -> None:
    """Append to rows `which`, (n,), the ids that their next token was drawn from; `inside` is (n, vocabulary)."""
    ids = array("i", inside.nonzero()[:, 1].tolist())
    ends = inside.sum(1).cumsum(0).tolist()
    for row, start, end in zip(which.tolist(), [0, *ends[:-1]], ends, strict=True):
        rows[row].supports.append(ids[start:end])


def _last_logits(
    model: PreTrainedModel, tokens: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: DynamicCache
) -> torch.Tensor:
    """Return (rows, vocabulary) logits of the last column of `tokens` (rows, columns)."""
    output = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return output.logits[:, -1]
