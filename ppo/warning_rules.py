"""Rules that find trouble in a run's metrics; docs/ppo.md lists what each warning means and what to do.

A rule takes the rows of metrics.jsonl so far and the recipe, and returns a sentence, or None where all is well.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.dist.devices import compute_dtype
from ppo.recipe import PPO

Rows = Sequence[dict[str, Any]]

# Means are over the last steps, and over the first ones where a run is compared with its start.
LAST_STEPS, FIRST_STEPS = 10, 5
# How far rounding alone may take ρ from 1 at the first minibatch: packed with other neighbours, sums round differently.
MAX_RATIO_ERROR = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
# How far, in nats a token, rounding may take the engine's log-probabilities from the trainer's; in bfloat16 it takes
# those of SmolLM2-135M 0.03 away.
MAX_ENGINE_MISMATCH = {torch.float32: 1e-3, torch.bfloat16: 0.1}
MIN_KL = -0.1  # nats a response
MIN_ENTROPY_SHARE, MAX_LENGTH_FACTOR = 0.3, 2.0  # of the mean over the first steps
MAX_WITHOUT_END_SHARE = 0.25
MAX_CONTROL_TOKENS_SHARE = 0.02
MIN_EXPLAINED_VARIANCE = 0.0


def warnings_of(rows: Rows, recipe: PPO) -> dict[str, str]:
    """Return the warnings that hold at the last row, by name."""
    found = {name: rule(rows, recipe) for name, rule in RULES.items()} if rows else {}
    return {name: f"{text}; see docs/ppo.md" for name, text in found.items() if text}


def known(rows: Rows, name: str) -> list[float]:
    """Return a metric's values, without those that are missing or not finite."""
    return [row[name] for row in rows if row.get(name) is not None and math.isfinite(row[name])]


def recent_mean(rows: Rows, name: str) -> float | None:
    """Return a metric's mean over the last steps; None while there are too few."""
    values = known(rows[-LAST_STEPS:], name)
    return sum(values) / len(values) if len(values) >= FIRST_STEPS else None


def first_mean(rows: Rows, name: str) -> float | None:
    """Return a metric's mean over the first steps; None while these overlap the last ones."""
    values = known(rows[:FIRST_STEPS], name)
    return sum(values) / len(values) if values and len(rows) >= FIRST_STEPS + LAST_STEPS else None


def ratio(rows: Rows, recipe: PPO) -> str | None:
    values = known(rows[-1:], "first_ratio_error")
    if values and values[0] > MAX_RATIO_ERROR[compute_dtype(recipe.model)]:
        return f"before any update the policy's ratio is off 1 by {values[0]:.2g}"
    return None


def engine_mismatch(rows: Rows, recipe: PPO) -> str | None:
    values = known(rows[-1:], "engine_mismatch")
    if values and values[0] > MAX_ENGINE_MISMATCH[compute_dtype(recipe.model)]:
        return f"the engine's log-probabilities differ from the trainer's by {values[0]:.2g} nats a token on average"
    return None


def kl_negative(rows: Rows, recipe: PPO) -> str | None:
    mean = recent_mean(rows, "kl")
    return f"kl is {mean:.2g} nats a response over the last steps" if mean is not None and mean < MIN_KL else None


def kl_high(rows: Rows, recipe: PPO) -> str | None:
    values, bound = known(rows[-1:], "kl"), recipe.watch.kl
    return f"kl is {values[0]:.3g} nats a response, above watch.kl={bound:g}" if values and values[0] > bound else None


def entropy_collapse(rows: Rows, recipe: PPO) -> str | None:
    now, then = recent_mean(rows, "entropy"), first_mean(rows, "entropy")
    if now is not None and then is not None and now < MIN_ENTROPY_SHARE * then:
        return f"entropy is {now:.2g} nats a token, {now / then:.0%} of what it was at first"
    return None


def length_growth(rows: Rows, recipe: PPO) -> str | None:
    now, then = recent_mean(rows, "response_tokens"), first_mean(rows, "response_tokens")
    if now is not None and then is not None and now > MAX_LENGTH_FACTOR * then:
        return f"answers have {now:.0f} tokens, {now / then:.1f} times what they had at first"
    return None


def without_end(rows: Rows, recipe: PPO) -> str | None:
    mean = recent_mean(rows, "without_end")
    return f"{mean:.0%} of the answers have no end" if mean is not None and mean > MAX_WITHOUT_END_SHARE else None


def none_ended(rows: Rows, recipe: PPO) -> str | None:
    if known(rows[-1:], "without_end") == [1.0]:
        return "no answer has ended, so none has a score: the policy learns from penalties alone"
    return None


def control_tokens(rows: Rows, recipe: PPO) -> str | None:
    mean = recent_mean(rows, "control_tokens")
    if mean is not None and mean > MAX_CONTROL_TOKENS_SHARE:
        return f"{mean:.0%} of the answers have control tokens before their end"
    return None


def value_useless(rows: Rows, recipe: PPO) -> str | None:
    """Look only at steps after the value model's warm-up and first steps, in which it has yet to learn."""
    mean = recent_mean(rows[max(recipe.ppo.value_warmup_steps, LAST_STEPS) :], "explained_variance")
    if recipe.ppo.advantage == "gae" and mean is not None and mean <= MIN_EXPLAINED_VARIANCE:
        return f"values explain nothing of the returns (explained_variance {mean:.2g})"
    return None


def overoptimised(rows: Rows, recipe: PPO) -> str | None:
    """Find gold below its best by more than two standard errors, while the score is above the one at that best."""
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
        ratio,
        engine_mismatch,
        kl_negative,
        kl_high,
        entropy_collapse,
        length_growth,
        without_end,
        none_ended,
        control_tokens,
        value_useless,
        overoptimised,
    )
}
