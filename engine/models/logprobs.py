"""Log-probabilities of given tokens at the positions that need them, and nothing of size (positions, vocabulary) kept.

The forward keeps one log-sum-exp a position; the backward makes each chunk's logits again and turns them in place into
the gradient (onehot - softmax), and the entropy's beside it where that is asked for. A chunk of 128 positions was the
best of those tried for time and memory together.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel

CHUNK = 128


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature):
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropy, logsumexp = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for at in range(0, len(hidden), CHUNK):
            chunk = slice(at, at + CHUNK)
            logits = _logits(hidden[chunk], weight, temperature)
            logsumexp[chunk] = logits.logsumexp(-1)
            logprobs[chunk] = logits.gather(-1, targets[chunk, None])[:, 0] - logsumexp[chunk]
            # H = logsumexp - E[logit]
            probabilities = (logits - logsumexp[chunk, None]).exp_()
            entropy[chunk] = logsumexp[chunk] - probabilities.mul_(logits).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, logsumexp, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)  # what is not asked for costs nothing
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprobs, grad_entropy):
        hidden, weight, targets, logsumexp, entropy = ctx.saved_tensors
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(entropy)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        for at in range(0, len(hidden), CHUNK):
            chunk = slice(at, at + CHUNK)
            logits = _logits(hidden[chunk], weight, ctx.temperature)
            logits.sub_(logsumexp[chunk, None])
            entropy_part = None
            if grad_entropy is not None:
                # dH/d logit = -p (log p + H)
                entropy_part = (logits + entropy[chunk, None]).mul_(logits.exp()).mul_(-grad_entropy[chunk, None])
            grad = logits.exp_().neg_()
            grad.scatter_add_(1, targets[chunk, None], torch.ones_like(grad[:, :1]))
            if entropy_part is None:
                grad.mul_(grad_logprobs[chunk, None] / ctx.temperature)
            else:
                grad.mul_(grad_logprobs[chunk, None]).add_(entropy_part).div_(ctx.temperature)
            if grad_hidden is not None:
                grad_hidden[chunk] = grad.to(hidden.dtype) @ weight.to(hidden.dtype)
            if grad_weight is not None:
                grad_weight.addmm_(grad.to(weight.dtype).t(), hidden[chunk].to(weight.dtype))
        return grad_hidden, grad_weight, None, None


def _logits(hidden: torch.Tensor, weight: torch.Tensor, temperature: float) -> torch.Tensor:
    return (hidden @ weight.to(hidden.dtype).t()).float().div_(temperature)


def chunked_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """log softmax(hidden @ weight.T / temperature) at `targets`, and that distribution's entropy.

    hidden is (positions, hidden_size), weight (vocabulary, hidden_size), targets (positions,); both results are
    (positions,) in float32, in nats. Gradients of both reach hidden and weight.
    """
    return _ChunkedLogProbs.apply(hidden, weight, targets, temperature)


@dataclass
class TokenLogProbs:
    """What a model with log-probabilities returns when it is asked for them: two (positions,) tensors in nats."""

    logprobs: torch.Tensor
    entropy: torch.Tensor


class _WithLogProbs:
    """Gives a causal LM class a second way through `forward`, so that wrappers (DDP, FSDP, PEFT) are never bypassed."""

    def forward(
        self,
        *args: Any,
        logprob_positions: torch.Tensor | None = None,
        logprob_targets: torch.Tensor | None = None,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> Any:
        if logprob_positions is None or logprob_targets is None:
            return super().forward(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs).last_hidden_state[0, logprob_positions]
        head = self.get_output_embeddings()
        return TokenLogProbs(*chunked_logprobs(hidden, head.weight, logprob_targets, temperature))


def with_logprobs(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The same class, same name, whose forward over one packed row also returns TokenLogProbs.

    `logprob_positions` (positions,) index the row, `logprob_targets` (positions,) are the tokens that follow there.
    """
    return type(model_class.__name__, (_WithLogProbs, model_class), {"__module__": model_class.__module__})
