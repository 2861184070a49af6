"""Random draws that are a function of what they are for, and of nothing else.

`uniform` hashes integer coordinates with splitmix64 (Steele, Lea & Flood 2014); `draw_token` turns such numbers into
tokens by inverse CDF, restricted to the nucleus (Holtzman et al. 2020) by rejection.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

# splitmix64's constants as signed 64-bit integers, whose arithmetic wraps around as the unsigned ones' does.
GOLDEN, MIX_1, MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = x + GOLDEN
    x = (x ^ _shift_right(x, 30)) * MIX_1
    x = (x ^ _shift_right(x, 27)) * MIX_2
    return x ^ _shift_right(x, 31)


def uniform(*coordinates: torch.Tensor | int) -> torch.Tensor:
    """Numbers in [0, 1), float64, one for each row of coordinates (ints, or int64 tensors of one shape)."""
    state = torch.zeros((), dtype=torch.int64)
    for coordinate in coordinates:
        coordinate = torch.as_tensor(coordinate, dtype=torch.int64)
        state = _mix(state.to(coordinate.device) ^ coordinate)
    return _shift_right(state, 11).double() * 2.0**-53


@dataclass(frozen=True)
class Drawn:
    """One token for each of some rows."""

    tokens: torch.Tensor
    """(rows,)"""
    logprobs: torch.Tensor
    """(rows,) of those tokens: under the whole distribution, or within the nucleus where that was asked for"""
    nucleus: torch.Tensor | None
    """(rows, vocabulary) true at the tokens that could be drawn, where it was asked for"""


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """(rows, vocabulary) true at the tokens whose strictly likelier ones hold less than `top_p`."""
    ordered = probabilities.sort(-1, descending=True).values
    likelier = ordered.cumsum(-1) - ordered
    # Equal tokens are all inside if the first of them is; a row's likeliest always is.
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
    """One token a row from softmax(logits / temperature), within the smallest set of probability `top_p`.

    logits is (rows, vocabulary); `uniform_at(rows, attempt)` gives the numbers for some rows' attempt. A token is
    outside the nucleus if the strictly likelier ones already hold `top_p`; equal ones at the edge are all inside.
    `record` returns the nucleus as well, and log-probabilities within it; that costs a sort.
    """
    probabilities = (logits.float() / temperature).softmax(-1)
    inside = nucleus(probabilities, top_p) if record else None
    tokens = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    todo, attempt = torch.arange(len(logits), device=logits.device), 0
    while len(todo):
        p = probabilities if len(todo) == len(probabilities) else probabilities[todo]
        cumulative = p.cumsum(-1)
        total = cumulative[:, -1]
        # A number just below 1 rounds to 1 in float32, and would fall behind the last token that has probability.
        threshold = (uniform_at(todo, attempt).to(p) * total).minimum(total.nextafter(torch.zeros_like(total)))
        drawn = torch.searchsorted(cumulative, threshold[:, None], right=True)[:, 0]
        tokens[todo] = drawn
        if inside is not None:
            refused = ~inside[todo].gather(1, drawn[:, None])[:, 0]
        elif top_p >= 1.0:
            break
        else:
            refused = (p * (p > p.gather(1, drawn[:, None]))).sum(-1) >= top_p
        todo, attempt = todo[refused], attempt + 1
    logprobs = probabilities.gather(1, tokens[:, None])[:, 0].log()
    if inside is not None:
        logprobs = logprobs - (probabilities * inside).sum(-1).log()
    return Drawn(tokens, logprobs, inside)
