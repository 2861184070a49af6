"""Rules that detect problems in a run's metrics; docs/ppo.md says what each warning means and what to do.

A rule takes the rows of metrics.jsonl so far and the recipe. It returns the text of the warning, or None. The name of a
rule's function is the name of its warning.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from engine.dist.devices import compute_dtype
from ppo.recipe import PPO

Rows = Sequence[dict[str, Any]]

# Steps in a mean over the last steps, and in a mean over the first ones, with which the last are compared.
LAST_STEPS, FIRST_STEPS = 10, 5
# Largest |ρ - 1| at the first minibatch that rounding explains: packed with other sequences, sums round differently.
MAX_RATIO_ERROR = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
# Largest mean difference, in nats per token, between the engine's and the trainer's log-probabilities that rounding
# explains; for SmolLM2-135M in bfloat16 it is 0.03.
MAX_ENGINE_MISMATCH = {torch.float32: 1e-3, torch.bfloat16: 0.1}
MIN_KL = -0.1  # nats per response
MIN_ENTROPY_SHARE, MAX_LENGTH_FACTOR = 0.3, 2.0  # relative to the mean over the first steps
MAX_WITHOUT_END_SHARE = 0.25
MAX_CONTROL_TOKENS_SHARE = 0.02
MIN_EXPLAINED_VARIANCE = 0.0


def warnings_of(rows: Rows, recipe: PPO) -> dict[str, str]:
    """Return the warnings that apply at the last row: {name: text}."""
    found = {name: rule(rows, recipe) for name, rule in RULES.items()} if rows else {}
    return {name: f"{text}; see docs/ppo.md" for name, text in found.items() if text}


def finite_values(rows: Rows, name: str) -> list[float]:
    """Return the values of a metric, without those that are missing or not finite."""
    return [row[name] for row in rows if row.get(name) is not None and math.isfinite(row[name])]


def recent_mean(rows: Rows, name: str) -> float | None:
    """Return the mean of a metric over the last steps; None while there are too few values."""
    values = finite_values(rows[-LAST_STEPS:], name)
    return sum(values) / len(values) if len(values) >= FIRST_STEPS else None


def first_mean(rows: Rows, name: str) -> float | None:
    """Return the mean of a metric over the first steps; None while they overlap the last steps."""
    values = finite_values(rows[:FIRST_STEPS], name)
    return sum(values) / len(values) if values and len(rows) >= FIRST_STEPS + LAST_STEPS else None


def ratio(rows: Rows, recipe: PPO) -> str | None:
    values = finite_values(rows[-1:], "first_ratio_error")
    if values and values[0] > MAX_RATIO_ERROR[compute_dtype(recipe.model)]:
        return f"before the first update the probability ratio differs from 1 by {values[0]:.2g}"
    return None


def engine_mismatch(rows: Rows, recipe: PPO) -> str | None:
    values = finite_values(rows[-1:], "engine_mismatch")
    if values and values[0] > MAX_ENGINE_MISMATCH[compute_dtype(recipe.model)]:
        return f"the engine's log-probabilities differ from the trainer's by {values[0]:.2g} nats per token on average"
    return None


def kl_negative(rows: Rows, recipe: PPO) -> str | None:
    mean = recent_mean(rows, "kl")
    return f"kl is {mean:.2g} nats per response over the last steps" if mean is not None and mean < MIN_KL else None


def kl_high(rows: Rows, recipe: PPO) -> str | None:
    values, bound = finite_values(rows[-1:], "kl"), recipe.watch.kl
    if values and values[0] > bound:
        return f"kl is {values[0]:.3g} nats per response, above watch.kl={bound:g}"
    return None


def entropy_collapse(rows: Rows, recipe: PPO) -> str | None:
    now, then = recent_mean(rows, "entropy"), first_mean(rows, "entropy")
    if now is not None and then is not None and now < MIN_ENTROPY_SHARE * then:
        return f"entropy is {now:.2g} nats per token, {now / then:.0%} of its mean over the first steps"
    return None


def length_growth(rows: Rows, recipe: PPO) -> str | None:
    now, then = recent_mean(rows, "response_tokens"), first_mean(rows, "response_tokens")
    if now is not None and then is not None and now > MAX_LENGTH_FACTOR * then:
        return f"responses have {now:.0f} tokens, {now / then:.1f} times their mean over the first steps"
    return None


def without_end(rows: Rows, recipe: PPO) -> str | None:
    mean = recent_mean(rows, "without_end")
    if mean is not None and mean > MAX_WITHOUT_END_SHARE:
        return f"{mean:.0%} of the responses have no end token"
    return None


def none_ended(rows: Rows, recipe: PPO) -> str | None:
    if finite_values(rows[-1:], "without_end") == [1.0]:
        return "no response has ended, so none has a score: the policy is trained on penalties only"
    return None


def control_tokens(rows: Rows, recipe: PPO) -> str | None:
    mean = recent_mean(rows, "control_tokens")
    if mean is not None and mean > MAX_CONTROL_TOKENS_SHARE:
        return f"{mean:.0%} of the responses have control tokens before their end"
    return None


def value_useless(rows: Rows, recipe: PPO) -> str | None:
    """Check only steps after the value warm-up and the run's first steps, when the value model has yet to learn."""
    mean = recent_mean(rows[max(recipe.ppo.value_warmup_steps, LAST_STEPS) :], "explained_variance")
    if recipe.ppo.advantage == "gae" and mean is not None and mean <= MIN_EXPLAINED_VARIANCE:
        return f"values explain none of the variance of the returns (explained_variance {mean:.2g})"
    return None


def overoptimised(rows: Rows, recipe: PPO) -> str | None:
    """Warn if gold is below its best by more than two standard errors while the score is above its value there."""
    measured = [row for row in rows if finite_values([row], "heldout_gold") and finite_values([row], "heldout_score")]
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
