"""Log-probabilities of given tokens at the positions that need them, and nothing of size (positions, vocabulary) kept.

The forward keeps one log-sum-exp a position; the backward makes each chunk's logits again and turns them in place into
the gradient (onehot - softmax), and the entropy's beside it where that is asked for. A chunk of 128 positions was the
best of those tried for time and memory together. Logits that are few are kept instead of made again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

CHUNK = 128
# How many logits are few: 32 MiB of them.
KEPT = 2**23


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, support, with_entropy):
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        logsumexp, entropy = torch.empty_like(logprobs), torch.empty_like(logprobs) if with_entropy else None
        few = len(hidden) * len(weight) <= KEPT and any(ctx.needs_input_grad)
        kept: list[torch.Tensor] = []
        logits_of = _projection(hidden, weight, temperature, reuse=not few)
        for at in range(0, len(hidden), CHUNK):
            chunk = slice(at, at + CHUNK)
            logits = _within(logits_of(hidden[chunk]), support, at)
            if few:
                kept.append(logits)
            logsumexp[chunk] = logits.logsumexp(-1)
            logprobs[chunk] = logits.gather(-1, targets[chunk, None])[:, 0] - logsumexp[chunk]
            if entropy is not None:
                # H = logsumexp - E[logit]
                probabilities = (logits - logsumexp[chunk, None]).exp_()
                entropy[chunk] = logsumexp[chunk] - probabilities.mul_(logits).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, logsumexp, entropy)
        ctx.temperature, ctx.support, ctx.kept = temperature, support, kept
        ctx.set_materialize_grads(False)  # what is not asked for costs nothing
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprobs, grad_entropy):
        hidden, weight, targets, logsumexp, entropy = ctx.saved_tensors
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(logsumexp)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        logits_of, cast = _projection(hidden, weight, ctx.temperature, reuse=True), weight.to(hidden.dtype)
        kept, ctx.kept = iter(ctx.kept), []  # turned into gradients: a second backward pass makes them again
        for at in range(0, len(hidden), CHUNK):
            chunk = slice(at, at + CHUNK)
            logits = next(kept, None)
            if logits is None:
                logits = _within(logits_of(hidden[chunk]), ctx.support, at)
            logits.sub_(logsumexp[chunk, None])
            of_entropy = None
            if grad_entropy is not None:
                # dH/d logit = -p (log p + H)
                of_entropy = (logits + entropy[chunk, None]).mul_(logits.exp())
                of_entropy.mul_(-grad_entropy[chunk, None] / ctx.temperature)
            # d log p / d logit = onehot - p, in place: -p everywhere, then 1 - p at the target
            scale = grad_logprobs[chunk, None] / ctx.temperature
            grad, target = logits.exp_(), targets[chunk, None]
            at_target = (1 - grad.gather(1, target)) * scale
            grad.mul_(-scale).scatter_(1, target, at_target)
            if of_entropy is not None:
                grad.add_(of_entropy)
            if grad_hidden is not None:
                grad_hidden[chunk] = grad.to(hidden.dtype) @ cast
            if grad_weight is not None:
                grad_weight.addmm_(grad.to(weight.dtype).t(), hidden[chunk].to(weight.dtype))
        return grad_hidden, grad_weight, None, None, None, None


def _projection(
    hidden: torch.Tensor, weight: torch.Tensor, temperature: float, *, reuse: bool
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What makes a chunk's logits, float32; with `reuse` good until it is called again, as large blocks are costly."""
    cast, buffer = weight.to(hidden.dtype).t(), None
    if reuse and hidden.dtype == torch.float32 and not torch.is_autocast_enabled(hidden.device.type):
        buffer = hidden.new_empty(min(CHUNK, len(hidden)), len(weight))

    def logits_of(chunk: torch.Tensor) -> torch.Tensor:
        logits = (chunk @ cast).float() if buffer is None else torch.mm(chunk, cast, out=buffer[: len(chunk)])
        return logits if temperature == 1.0 else logits.div_(temperature)

    return logits_of


@dataclass(frozen=True)
class Support:
    """For each position the token ids that it may have; a distribution is cut to them and made to sum to 1 again."""

    ids: torch.Tensor
    """(total,) of all positions, one after the other"""
    counts: torch.Tensor
    """(positions,) how many of them are each position's"""

    @property
    def ends(self) -> list[int]:
        return [0, *self.counts.cumsum(0).tolist()]


def _within(logits: torch.Tensor, support: Support | None, at: int) -> torch.Tensor:
    """Logits of positions from `at` on, those outside their support so low that nothing of them is left."""
    if support is None:
        return logits
    ends, counts = support.ends, support.counts[at : at + len(logits)]
    allowed = torch.zeros_like(logits, dtype=torch.bool)
    rows = torch.arange(len(logits), device=logits.device).repeat_interleave(counts)
    allowed[rows, support.ids[ends[at] : ends[at + len(logits)]]] = True
    # Finite: 0 · -inf in the entropy would be no number.
    return logits.masked_fill_(~allowed, -1e30)


def chunked_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    support: Support | None = None,
    with_entropy: bool = True,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """log softmax(hidden @ weight.T / temperature) at `targets`, and that distribution's entropy if it is asked for.

    hidden is (positions, hidden_size), weight (vocabulary, hidden_size), targets (positions,); both results are
    (positions,) in float32, in nats; with a `support`, which holds the targets, of the distribution within it.
    Gradients of both reach hidden and weight.
    """
    return _ChunkedLogProbs.apply(hidden, weight, targets, temperature, support, with_entropy)


@dataclass
class TokenLogProbs(ModelOutput):
    """What a model with log-probabilities returns when it is asked for them: (positions,) tensors in nats.

    A ModelOutput, because FSDP2 and ZeRO-3 have to find the tensors in it.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor | None = None


class _WithLogProbs:
    """Gives a causal LM class a second way through `forward`, so that wrappers (DDP, FSDP, PEFT) are never bypassed."""

    def forward(
        self,
        *args: Any,
        logprob_positions: torch.Tensor | None = None,
        logprob_targets: torch.Tensor | None = None,
        logprob_support: Support | None = None,
        with_entropy: bool = True,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> Any:
        if logprob_positions is None or logprob_targets is None:
            return super().forward(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs).last_hidden_state[0, logprob_positions]
        head = self.get_output_embeddings()
        if isinstance(head, FSDPModule):
            head(hidden[:0])  # FSDP2 gathers a module's weights when it is called, not when they are read
        return TokenLogProbs(
            *chunked_logprobs(hidden, head.weight, logprob_targets, temperature, logprob_support, with_entropy)
        )


def with_logprobs(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The same class, same name, whose forward over one packed row also returns TokenLogProbs.

    `logprob_positions` (positions,) index the row, `logprob_targets` (positions,) are the tokens that follow there;
    `logprob_support` may cut the distributions.
    """
    return type(model_class.__name__, (_WithLogProbs, model_class), {"__module__": model_class.__module__})
