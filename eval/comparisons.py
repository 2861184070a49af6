"""Figures of rewards on held-out comparisons: accuracy, calibration, and how much of the accuracy length explains.

    {REWARD: {"comparisons": {SET: FIGURES with "subsets": {SUBSET: {"pairs", "accuracy", "accuracy_ci95"}}}}}

All functions are pure and take the lines of pairs.jsonl or numbers from them. docs/metrics.md has the formula of every
figure. `subsets` is present if the records of a set have a `subset` (as in RewardBench).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.statistics import calibration, calibration_error, correlation, pair_accuracy, wilson_interval

Pair = Mapping[str, Any]
"""keys set, subset (null if the record has none), scores: {reward: [chosen, rejected]}, tokens: [chosen, rejected]"""
# A warning is given if a rule about length explains at least this share of a reward's accuracy above chance.
MOSTLY_LENGTH_SHARE = 0.5


def reward_figures(pairs: Sequence[Pair]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return {REWARD: {"comparisons": {SET: figures}}}."""
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for name in dict.fromkeys(pair["set"] for pair in pairs):
        chosen = [pair for pair in pairs if pair["set"] == name]
        longer = [pair["tokens"][0] - pair["tokens"][1] for pair in chosen]
        subsets = [pair["subset"] for pair in chosen]
        for reward in chosen[0]["scores"]:
            margins = [pair["scores"][reward][0] - pair["scores"][reward][1] for pair in chosen]
            of_set = margin_figures(margins, longer) | by_subset(margins, subsets)
            figures.setdefault(reward, {"comparisons": {}})["comparisons"][name] = of_set
    return figures


def margin_figures(margins: Sequence[float], longer: Sequence[int]) -> dict[str, Any]:
    """Return the figures of one reward on one set of comparisons.

    Per comparison, `margins` has r(chosen) - r(rejected), and `longer` has tokens(chosen) - tokens(rejected).
    """
    length_only = length_accuracy(longer)
    counted = accuracy_figures(margins)
    accuracy = counted["accuracy"]
    unequal = [m if d > 0 else -m for m, d in zip(margins, longer, strict=True) if d]
    return {
        **counted,
        "by_length": dict(by_length(margins, longer)),
        "prefers_longer": pair_accuracy(unequal) if unequal else None,
        "margin_length_correlation": correlation(margins, longer),
        "length_only_accuracy": length_only,
        "length_explains": (length_only - 0.5) / (accuracy - 0.5) if accuracy > 0.5 else None,
        "calibration": [list(part) for part in calibration(*confidence_and_correctness(margins))],
        "ece": calibration_error(*confidence_and_correctness(margins)),
    }


def accuracy_figures(margins: Sequence[float]) -> dict[str, Any]:
    """Return the number of comparisons, the accuracy, and its 95 % Wilson interval."""
    accuracy = pair_accuracy(margins)
    return {"pairs": len(margins), "accuracy": accuracy, "accuracy_ci95": list(wilson_interval(accuracy, len(margins)))}


def by_subset(margins: Sequence[float], subsets: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """Return {"subsets": {SUBSET: accuracy figures}} in the data's order; {} if no record has a subset."""
    names = [name for name in dict.fromkeys(subsets) if name is not None]
    figures = {
        name: accuracy_figures([m for m, subset in zip(margins, subsets, strict=True) if subset == name])
        for name in names
    }
    return {"subsets": figures} if figures else {}


def by_length(margins: Sequence[float], longer: Sequence[int]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the accuracy where the chosen side is longer, of equal length, and shorter; empty groups are left out."""
    for name, sign in (("chosen_longer", 1), ("equal", 0), ("chosen_shorter", -1)):
        group = [m for m, d in zip(margins, longer, strict=True) if (d > 0) - (d < 0) == sign]
        if group:
            yield name, {"pairs": len(group), "accuracy": pair_accuracy(group)}


def length_accuracy(longer: Sequence[int]) -> float:
    """Return the accuracy of always preferring the longer side, or the shorter one, whichever is higher."""
    share = pair_accuracy(longer)
    return max(share, 1 - share)


def confidence_and_correctness(margins: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return, per margin m, the confidence σ(|m|) in the preferred side, and 1 if that side is the chosen one, else 0.

    A tie (m = 0) counts ½.
    """
    confidences = [1 / (1 + math.exp(-abs(m))) for m in margins]
    return confidences, [0.5 if m == 0 else float(m > 0) for m in margins]


def mostly_length(figures: dict[str, Any]) -> bool:
    """Return whether a rule about length explains most of a reward's accuracy above chance.

    The rule itself must be better than chance: the lower end of its 95 % Wilson interval is above ½.
    """
    explains = figures["length_explains"]
    beats_chance = wilson_interval(figures["length_only_accuracy"], figures["pairs"])[0] > 0.5
    return explains is not None and explains >= MOSTLY_LENGTH_SHARE and beats_chance


def warnings(rewards: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each reward and set where length explains most of the accuracy.

    `rewards` is the value of that key in summary.json.
    """
    for reward, measures in rewards.items():
        for name, figures in measures["comparisons"].items():
            if mostly_length(figures):
                yield (
                    f"{reward} on {name}: length alone is right on {100 * figures['length_only_accuracy']:.1f}%, the "
                    f"reward on {100 * figures['accuracy']:.1f}%: length could explain "
                    f"{100 * min(figures['length_explains'], 1):.0f}% of its accuracy above chance; compare answers of "
                    "equal length"
                )
