"""Compute log-probabilities of given tokens without a (positions, vocabulary) tensor.

Logits are computed in tiles (some positions by a part of the vocabulary) that are small enough to stay in the
processor's cache. The forward pass stores one log-sum-exp per position; the backward pass recomputes each tile and
turns it in place into the gradient (onehot - softmax), plus the entropy's gradient if there is one. If there are only a
few logits, they are stored instead of recomputed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

# (positions, vocabulary entries) of a tile: the fastest size of those tried on a CPU; not tuned on a GPU.
TILE_ON_CPU, TILE_ON_GPU = (512, 2048), (4096, 16384)
# At most this many logits are stored: 32 MiB in float32.
MAX_STORED_LOGITS = 2**23


class _TiledLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        support: "Support | None",
        with_entropy: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        picked = hidden.new_empty(len(hidden), dtype=torch.float32)
        store = len(hidden) * len(weight) <= MAX_STORED_LOGITS and any(ctx.needs_input_grad)
        ctx.stored = []
        sums: list[torch.Tensor] = []
        means: list[torch.Tensor] = []
        for columns, of_columns in _tiles(hidden, weight, bias, temperature, support, iter(())):
            sums.append(torch.empty_like(picked))
            means.append(torch.empty_like(picked))
            for rows, logits in of_columns:
                at, within = _targets_in(targets[rows], columns)
                picked[rows][at] = logits[at, within]
                sums[-1][rows] = logits.logsumexp(-1)
                if with_entropy:
                    probabilities = (logits - sums[-1][rows, None]).exp_()
                    means[-1][rows] = probabilities.mul_(logits).sum(-1)
                if store:
                    ctx.stored.append(logits)
        of_tiles = torch.stack(sums)
        logsumexp = of_tiles.logsumexp(0)
        # H = logsumexp - E[logit]; E[logit] is the mean over tiles, weighted by their probability
        entropy = logsumexp - ((of_tiles - logsumexp).exp() * torch.stack(means)).sum(0) if with_entropy else None
        ctx.save_for_backward(hidden, weight, bias, targets, logsumexp, entropy)
        ctx.temperature, ctx.support = temperature, support
        ctx.set_materialize_grads(False)  # None for an output without a gradient, which then costs nothing
        return picked - logsumexp, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logprobs: torch.Tensor | None, grad_entropy: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, logsumexp, entropy = ctx.saved_tensors
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(logsumexp)
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[2] else None
        stored, ctx.stored = iter(ctx.stored), []  # gradients overwrite them: a second backward pass recomputes them
        for columns, of_columns in _tiles(hidden, weight, bias, ctx.temperature, ctx.support, stored):
            for rows, logits in of_columns:
                logits.sub_(logsumexp[rows, None])
                of_entropy = None
                if grad_entropy is not None:
                    # dH/d logit = -p (log p + H)
                    of_entropy = (logits + entropy[rows, None]).mul_(logits.exp())
                    of_entropy.mul_(-grad_entropy[rows, None] / ctx.temperature)
                # d log p / d logit = onehot - p, in place: -p everywhere, then 1 - p at the target
                scale = grad_logprobs[rows, None] / ctx.temperature
                grad, (at, within) = logits.exp_(), _targets_in(targets[rows], columns)
                at_target = (1 - grad[at, within]) * scale[at, 0]
                grad.mul_(-scale)
                grad[at, within] = at_target
                if of_entropy is not None:
                    grad.add_(of_entropy)
                if grad_bias is not None:
                    grad_bias[columns] += grad.sum(0).to(grad_bias.dtype)
                low = grad.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] += low @ weight[columns].to(hidden.dtype)
                if grad_weight is not None and weight.dtype == hidden.dtype:
                    grad_weight[columns].addmm_(low.t(), hidden[rows])
                elif grad_weight is not None:
                    grad_weight[columns] += low.t() @ hidden[rows]
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _tiles(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    temperature: float,
    support: "Support | None",
    stored: Iterator[torch.Tensor],
) -> Iterator[tuple[slice, Iterator[tuple[slice, torch.Tensor]]]]:
    """Yield slices of the vocabulary, each with slices of positions and their float32 logits: `stored` or computed."""
    height, width = TILE_ON_CPU if hidden.device.type == "cpu" else TILE_ON_GPU

    def of_columns(columns: slice) -> Iterator[tuple[slice, torch.Tensor]]:
        part = weight[columns].to(hidden.dtype).t()
        for at in range(0, len(hidden), height):
            rows = slice(at, at + height)
            logits = next(stored, None)
            if logits is None:
                logits = (hidden[rows] @ part).float()
                if bias is not None:
                    logits.add_(bias[columns])
                if temperature != 1.0:
                    logits.div_(temperature)
                if support is not None:
                    support.mask_outside(logits, rows, columns)
            yield rows, logits

    for at in range(0, len(weight), width):
        columns = slice(at, min(at + width, len(weight)))
        yield columns, of_columns(columns)


def _targets_in(targets: torch.Tensor, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the positions whose target is in a slice of the vocabulary, and the target's index in the slice."""
    at = ((targets >= columns.start) & (targets < columns.stop)).nonzero()[:, 0]
    return at, targets[at] - columns.start


@dataclass(frozen=True)
class Support:
    """The set of token ids that each position may have; distributions are renormalised over it."""

    ids: torch.Tensor
    """(total,) int64: the token ids of all positions, one position after the other"""
    counts: torch.Tensor
    """(positions,) int64: how many of `ids` belong to each position"""

    @cached_property
    def ends(self) -> list[int]:
        """(positions + 1,) indices into `ids` where each position's ids end, after a leading 0"""
        return [0, *self.counts.cumsum(0).tolist()]

    def mask_outside(self, logits: torch.Tensor, rows: slice, columns: slice) -> None:
        """Set the logits of a tile, (rows, columns), outside the support so low that their probability is 0."""
        counts = self.counts[rows]
        ids = self.ids[self.ends[rows.start] : self.ends[rows.start + len(counts)]]
        at = torch.arange(len(counts), device=ids.device).repeat_interleave(counts)
        here = (ids >= columns.start) & (ids < columns.stop)
        allowed = torch.zeros_like(logits, dtype=torch.bool)
        allowed[at[here], ids[here] - columns.start] = True
        # Finite, because 0 · -inf in the entropy would be NaN.
        logits.masked_fill_(~allowed, -1e30)


def tiled_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    support: Support | None = None,
    with_entropy: bool = True,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return log softmax((hidden @ weight.T + bias) / temperature) at `targets`, and the entropy of the softmax.

    Both are differentiable in hidden, weight and bias. Under autocast all matrix products use its dtype, including
    those of the backward pass, which runs outside autocast.

    Args:
        hidden: (positions, hidden_size) last hidden states; positions is the number of tokens to predict.
        weight: (vocabulary, hidden_size) of the output head.
        targets: (positions,) int64 token ids.
        support: restricts each position's distribution to a set that contains its target.
        with_entropy: whether to compute the entropy.
        bias: (vocabulary,) of the output head, if it has one.

    Returns two (positions,) float32 tensors in nats; the second is None without `with_entropy`.
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    return _TiledLogProbs.apply(hidden, weight, bias, targets, temperature, support, with_entropy)


@dataclass
class TokenLogProbs(ModelOutput):
    """Log-probabilities and entropies that a model returns: (positions,) float32 tensors in nats.

    It is a ModelOutput so that FSDP2 and ZeRO-3 find the tensors in it.
    """

    logprobs: torch.Tensor
    entropy: torch.Tensor | None = None


if TYPE_CHECKING:
    _Model = PreTrainedModel  # the class that it is combined with
else:
    _Model = object


class _WithLogProbs(_Model):
    """Adds log-probabilities to a causal LM's `forward`, so that calls always go through wrappers (DDP, FSDP, PEFT)."""

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
        head: Any = self.get_output_embeddings()
        sharded = isinstance(head, FSDPModule)
        if sharded:
            head(hidden[:0])  # FSDP2 gathers a module's weights when it is called, not when they are read
        return TokenLogProbs(
            *tiled_logprobs(
                hidden,
                head.weight,
                logprob_targets,
                temperature,
                logprob_support,
                with_entropy,
                bias=getattr(head, "bias", None),
            )
        )


def with_logprobs(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return a subclass of the same name whose forward over one packed row can return TokenLogProbs.

    Pass `logprob_positions`, (positions,) int64 indices into the row, and `logprob_targets`, (positions,) int64 ids of
    the tokens that follow there. `logprob_support` restricts the distributions; `temperature` and `with_entropy` are
    those of `tiled_logprobs`. Without the first two, forward is that of `model_class`.
    """
    return type(model_class.__name__, (_WithLogProbs, model_class), {"__module__": model_class.__module__})
