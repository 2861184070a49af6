"""Log-probabilities of given tokens at the positions that need them, and nothing of size (positions, vocabulary) kept.

Logits are made a tile at a time, some positions by some of the vocabulary, small enough to stay in a processor's cache
while all that is done with them is done. The forward keeps one log-sum-exp a position; the backward makes each tile
again and turns it in place into the gradient (onehot - softmax), and the entropy's beside it where that is asked for.
Logits that are few are kept instead of made again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

# (positions, tokens of the vocabulary) in a tile: on a CPU the best of those tried, on a GPU untried.
TILE_ON_CPU, TILE_ON_GPU = (512, 2048), (4096, 16384)
# How many logits are few: 32 MiB of them.
KEPT = 2**23


class _TiledLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, temperature, support, with_entropy):
        picked = hidden.new_empty(len(hidden), dtype=torch.float32)
        few = len(hidden) * len(weight) <= KEPT and any(ctx.needs_input_grad)
        ctx.kept = []
        sums: list[torch.Tensor] = []
        means: list[torch.Tensor] = []
        for columns, of_columns in _tiles(hidden, weight, temperature, support, iter(())):
            sums.append(torch.empty_like(picked))
            means.append(torch.empty_like(picked))
            for rows, logits in of_columns:
                at, within = _targets_in(targets[rows], columns)
                picked[rows][at] = logits[at, within]
                sums[-1][rows] = logits.logsumexp(-1)
                if with_entropy:
                    probabilities = (logits - sums[-1][rows, None]).exp_()
                    means[-1][rows] = probabilities.mul_(logits).sum(-1)
                if few:
                    ctx.kept.append(logits)
        of_tiles = torch.stack(sums)
        logsumexp = of_tiles.logsumexp(0)
        # H = logsumexp - E[logit], the expectation over tiles of theirs
        entropy = logsumexp - ((of_tiles - logsumexp).exp() * torch.stack(means)).sum(0) if with_entropy else None
        ctx.save_for_backward(hidden, weight, targets, logsumexp, entropy)
        ctx.temperature, ctx.support = temperature, support
        ctx.set_materialize_grads(False)  # what is not asked for costs nothing
        return picked - logsumexp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_logprobs, grad_entropy):
        hidden, weight, targets, logsumexp, entropy = ctx.saved_tensors
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(logsumexp)
        grad_hidden = torch.zeros_like(hidden, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        kept, ctx.kept = iter(ctx.kept), []  # turned into gradients: a second backward pass makes them again
        for columns, of_columns in _tiles(hidden, weight, ctx.temperature, ctx.support, kept):
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
                low = grad.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] += low @ weight[columns].to(hidden.dtype)
                if grad_weight is not None and weight.dtype == hidden.dtype:
                    grad_weight[columns].addmm_(low.t(), hidden[rows])
                elif grad_weight is not None:
                    grad_weight[columns] += low.t() @ hidden[rows]
        if grad_hidden is not None:
            grad_hidden = grad_hidden.to(hidden.dtype)
        return grad_hidden, grad_weight, None, None, None, None


def _tiles(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    temperature: float,
    support: "Support | None",
    kept: Iterator[torch.Tensor],
) -> Iterator[tuple[slice, Iterator[tuple[slice, torch.Tensor]]]]:
    """Slices of the vocabulary; for each the slices of positions with their logits, float32, the `kept` ones first."""
    height, width = TILE_ON_CPU if hidden.device.type == "cpu" else TILE_ON_GPU

    def of_columns(columns: slice) -> Iterator[tuple[slice, torch.Tensor]]:
        part = weight[columns].to(hidden.dtype).t()
        for at in range(0, len(hidden), height):
            rows = slice(at, at + height)
            logits = next(kept, None)
            if logits is None:
                logits = (hidden[rows] @ part).float()
                if temperature != 1.0:
                    logits.div_(temperature)
                if support is not None:
                    support.cut(logits, rows, columns)
            yield rows, logits

    for at in range(0, len(weight), width):
        columns = slice(at, min(at + width, len(weight)))
        yield columns, of_columns(columns)


def _targets_in(targets: torch.Tensor, columns: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of some positions have their target in a slice of the vocabulary, and where in it."""
    at = ((targets >= columns.start) & (targets < columns.stop)).nonzero()[:, 0]
    return at, targets[at] - columns.start


@dataclass(frozen=True)
class Support:
    """For each position the token ids that it may have; a distribution is cut to them and made to sum to 1 again."""

    ids: torch.Tensor
    """(total,) of all positions, one after the other"""
    counts: torch.Tensor
    """(positions,) how many of them are each position's"""

    @cached_property
    def ends(self) -> list[int]:
        """where each position's ids end, with a 0 in front"""
        return [0, *self.counts.cumsum(0).tolist()]

    def cut(self, logits: torch.Tensor, rows: slice, columns: slice) -> None:
        """Make logits of a tile so low, where they are outside, that nothing of them is left."""
        counts = self.counts[rows]
        ids = self.ids[self.ends[rows.start] : self.ends[rows.start + len(counts)]]
        at = torch.arange(len(counts), device=ids.device).repeat_interleave(counts)
        here = (ids >= columns.start) & (ids < columns.stop)
        allowed = torch.zeros_like(logits, dtype=torch.bool)
        allowed[at[here], ids[here] - columns.start] = True
        # Finite: 0 · -inf in the entropy would be no number.
        logits.masked_fill_(~allowed, -1e30)


def tiled_logprobs(
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
    Gradients of both reach hidden and weight. Under autocast all products are in its type, the backward pass's as well,
    which runs outside of it.
    """
    place = hidden.device.type
    if torch.is_autocast_enabled(place):
        hidden = hidden.to(torch.get_autocast_dtype(place))
    return _TiledLogProbs.apply(hidden, weight, targets, temperature, support, with_entropy)


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
            *tiled_logprobs(hidden, head.weight, logprob_targets, temperature, logprob_support, with_entropy)
        )


def with_logprobs(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """The same class, same name, whose forward over one packed row also returns TokenLogProbs.

    `logprob_positions` (positions,) index the row, `logprob_targets` (positions,) are the tokens that follow there;
    `logprob_support` may cut the distributions.
    """
    return type(model_class.__name__, (_WithLogProbs, model_class), {"__module__": model_class.__module__})
