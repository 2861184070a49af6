"""Draw tokens from logits by inverse CDF, restricted to the nucleus (Holtzman et al. 2020) by rejection.

Rejection needs no sort. If the nucleus has little probability, nearly all draws are rejected; after MAX_REJECTIONS
attempts the nucleus is found by sorting and sampled directly, with the same distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.errors import RunError

# Attempts by rejection. At top-p 0.9 at most one draw in 10^16 needs more.
MAX_REJECTIONS = 16


@dataclass(frozen=True)
class Drawn:
    """One token for each row."""

    tokens: torch.Tensor
    """(rows,) int64 token ids"""
    logprobs: torch.Tensor
    """(rows,) float32, nats of those tokens: under the full distribution, or within the nucleus if that is recorded"""
    nucleus: torch.Tensor | None
    """(rows, vocabulary) bool, true at the tokens that could be drawn; None unless recorded"""


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Return a (rows, vocabulary) mask of the tokens whose strictly likelier tokens have less than `top_p` in total."""
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
    """Draw one token per row from softmax(logits / temperature), within the smallest set of probability `top_p`.

    A token is outside this set, the nucleus, if the strictly likelier tokens already have `top_p` in total; tokens of
    equal probability at its edge are all inside.

    Args:
        logits: (rows, vocabulary).
        uniform_at: takes (n,) row indices and the number of the attempt; returns (n,) numbers in [0, 1).
        record: return the nucleus as well, and log-probabilities within it; this costs a sort.

    Raises RunError if a row's logits contain NaN or give no token any probability.
    """
    probabilities = (logits.float() / temperature).softmax(-1)
    # One NaN logit makes its whole row NaN.
    if probabilities[:, 0].isnan().any():
        raise RunError(
            "the model that generates responses returned logits that are not finite (NaN); check the checkpoint that "
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
        # A number just below 1 rounds to 1 in float32, and would select a token after the last probable one.
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
