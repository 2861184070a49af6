"""Draw tokens from logits: by inverse CDF, restricted to the nucleus (Holtzman et al. 2020) by rejection.

Rejection needs no sort. Where the nucleus holds little probability, nearly all draws are rejected; after some attempts
the nucleus is then sorted out and drawn from directly, from the same distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.errors import RunError

# Attempts by rejection. At top-p 0.9 one draw in 10^16 or fewer needs more.
MAX_REJECTIONS = 16


@dataclass(frozen=True)
class Drawn:
    """One token for each row."""

    tokens: torch.Tensor
    """(rows,)"""
    logprobs: torch.Tensor
    """(rows,) nats, of those tokens: under the whole distribution, or within the nucleus if that is recorded"""
    nucleus: torch.Tensor | None
    """(rows, vocabulary) true at the tokens that could be drawn; None unless recorded"""


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return (rows, vocabulary), true at the tokens whose strictly likelier ones have less than `top_p` together."""
    ordered = probabilities.sort(-1, descending=True).values
    likelier = ordered.cumsum(-1) - ordered
    # Tokens of equal probability are all inside if the first of them is; a row's likeliest token always is.
    last = (likelier < top_p).sum(-1, keepdim=True).clamp(min=1) - 1
    return (probabilities >= ordered.gather(-1, last)) & (probabilities > 0)


def draw_token(
    logits: torch.Tensor,
    top_p: float,
    temperature: float,
    uniform_at: Callable[[torch.Tensor, int], torch.Tensor],
    *,
    record: bool = False,
) -> Drawn:
    """Draw one token a row from softmax(logits / temperature), within the smallest set of probability `top_p`.

    A token is outside the nucleus if the strictly likelier ones already have `top_p` together; tokens of equal
    probability at its edge are all inside.

    Args:
        logits: (rows, vocabulary).
        uniform_at: takes row indices (n,) and an attempt's number; returns (n,) numbers in [0, 1).
        record: return the nucleus as well, and log-probabilities within it; that costs a sort.

    Raises RunError where a row's logits are NaN or leave no token any probability.
    """
    probabilities = (logits.float() / temperature).softmax(-1)
    # One such logit makes its whole row NaN.
    if probabilities[:, 0].isnan().any():
        raise RunError(
            "the model that generates responses returned logits that are not finite (NaN); look at the checkpoint that "
            "it was loaded from"
        )
    inside = nucleus(probabilities, top_p) if record else None
    tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    todo, attempt = torch.arange(len(logits), device=logits.device), 0
    while len(todo):
        p = probabilities if len(todo) == len(probabilities) else probabilities[todo]
        last = attempt == MAX_REJECTIONS
        if last:
            p = p * (nucleus(p, top_p) if inside is None else inside[todo])
        cumulative = p.cumsum(-1)
        total = cumulative[:, -1]
        # A number just below 1 rounds to 1 in float32, and would fall behind the last token that has probability.
        threshold = (uniform_at(todo, attempt).to(p) * total).minimum(total.nextafter(torch.zeros_like(total)))
        drawn = torch.searchsorted(cumulative, threshold[:, None], right=True)[:, 0]
        tokens[todo] = drawn
        if last or top_p >= 1.0:
            break
        if inside is not None:
            refused = ~inside[todo].gather(1, drawn[:, None])[:, 0]
        else:
            refused = (p * (p > p.gather(1, drawn[:, None]))).sum(-1) >= top_p
        todo, attempt = todo[refused], attempt + 1
    logprobs = probabilities.gather(1, tokens[:, None])[:, 0].log()
    if inside is not None:
        logprobs = logprobs - (probabilities * inside).sum(-1).log()
    return Drawn(tokens, logprobs, inside)
