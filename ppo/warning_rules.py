"""Warnings: what in a run's metrics means that something goes wrong. docs/ppo.md tells the remedy of each.

A rule takes the rows of metrics.jsonl so far and the recipe, and returns what is wrong in words, or None.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.dist.devices import compute_dtype
from ppo.recipe import PPO

Rows = Sequence[dict[str, Any]]

# Steps that a mean is over: the last ones, and the first ones where a run is compared with its beginning.
WINDOW, BEGINNING = 10, 5
# How far ρ may be from 1 at the first minibatch by rounding alone: other neighbours in a row, other sums.
RATIO_ERROR = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
NEGATIVE_KL, ENTROPY_LEFT, LENGTH_GROWN, WITHOUT_END, EXPLAINED = -0.1, 0.3, 2.0, 0.25, 0.0


def warnings_of(rows: Rows, recipe: PPO) -> dict[str, str]:
    """What is wrong at the last row, by the warning's name."""
    found = {name: rule(rows, recipe) for name, rule in RULES.items()} if rows else {}
    return {name: f"{text}; docs/ppo.md tells what to do" for name, text in found.items() if text}


def known(rows: Rows, name: str) -> list[float]:
    """A metric's values where there are some; what could not be computed is left out."""
    return [row[name] for row in rows if row.get(name) is not None and math.isfinite(row[name])]


def recent(rows: Rows, name: str) -> float | None:
    """Mean over the last steps, once there are enough of them."""
    values = known(rows[-WINDOW:], name)
    return sum(values) / len(values) if len(values) >= BEGINNING else None


def beginning(rows: Rows, name: str) -> float | None:
    """Mean over the first steps, once the last ones are others."""
    values = known(rows[:BEGINNING], name)
    return sum(values) / len(values) if values and len(rows) >= BEGINNING + WINDOW else None


def ratio(rows: Rows, recipe: PPO) -> str | None:
    values = known(rows[-1:], "first_ratio_error")
    if values and values[0] > RATIO_ERROR[compute_dtype(recipe.model)]:
        return f"before any update the policy's ratio is off 1 by {values[0]:.2g}"
    return None


def kl_negative(rows: Rows, recipe: PPO) -> str | None:
    mean = recent(rows, "kl")
    return f"kl is {mean:.2g} nats a response over the last steps" if mean is not None and mean < NEGATIVE_KL else None


def kl_high(rows: Rows, recipe: PPO) -> str | None:
    values, bound = known(rows[-1:], "kl"), recipe.watch.kl
    return f"kl is {values[0]:.3g} nats a response, above watch.kl={bound:g}" if values and values[0] > bound else None


def entropy_collapse(rows: Rows, recipe: PPO) -> str | None:
    now, then = recent(rows, "entropy"), beginning(rows, "entropy")
    if now is not None and then is not None and now < ENTROPY_LEFT * then:
        return f"entropy is {now:.2g} nats a token, {now / then:.0%} of what it was at first"
    return None


def length_growth(rows: Rows, recipe: PPO) -> str | None:
    now, then = recent(rows, "response_tokens"), beginning(rows, "response_tokens")
    if now is not None and then is not None and now > LENGTH_GROWN * then:
        return f"answers have {now:.0f} tokens, {now / then:.1f} times what they had at first"
    return None


def without_end(rows: Rows, recipe: PPO) -> str | None:
    mean = recent(rows, "without_end")
    return f"{mean:.0%} of the answers have no end" if mean is not None and mean > WITHOUT_END else None


def value_useless(rows: Rows, recipe: PPO) -> str | None:
    """The value model is given its first steps, and those of its warm-up, to learn."""
    mean = recent(rows[max(recipe.ppo.value_warmup_steps, WINDOW) :], "explained_variance")
    if recipe.ppo.advantage == "gae" and mean is not None and mean <= EXPLAINED:
        return f"values explain nothing of the returns (explained_variance {mean:.2g})"
    return None


def overoptimised(rows: Rows, recipe: PPO) -> str | None:
    """Gold below its best by more than chance, at a proxy above the one it had there."""
    measured = [row for row in rows if known([row], "heldout_gold") and known([row], "heldout_score")]
    if not measured:
        return None
    best, now = max(measured, key=lambda row: row["heldout_gold"]), measured[-1]
    chance = 2 * math.hypot(best["heldout_gold_error"], now["heldout_gold_error"])
    if now["heldout_score"] > best["heldout_score"] and now["heldout_gold"] < best["heldout_gold"] - chance:
        return (
            f"since step {best['step']} the reward rose from {best['heldout_score']:.3g} to {now['heldout_score']:.3g} "
            f"and gold fell from {best['heldout_gold']:.3g} to {now['heldout_gold']:.3g} on held-out prompts"
        )
    return None


RULES: dict[str, Callable[[Rows, PPO], str | None]] = {
    rule.__name__: rule
    for rule in (
        ratio, kl_negative, kl_high, entropy_collapse, length_growth, without_end, value_useless, overoptimised,
    )
}  # fmt: skip
