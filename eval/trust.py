"""How far reward models can be trusted: right on how many comparisons, how sure of it, and how much of it is length.

Pure, over the lines of pairs.jsonl; every name is defined by formula in docs/metrics.md.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from eval.statistics import calibration, calibration_error, correlation, pair_accuracy, wilson_interval

Pair = dict[str, Any]
"""data (which set of comparisons), scores: model -> [chosen, rejected], and tokens: [chosen, rejected]"""
# From this share of its gain over a coin on, a reward model's accuracy is said to be that of a rule about length.
MOST = 0.5


def of_reward_models(pairs: Sequence[Pair]) -> dict[str, dict[str, dict[str, Any]]]:
    """model -> set of comparisons -> figures."""
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for data in dict.fromkeys(pair["data"] for pair in pairs):
        chosen = [pair for pair in pairs if pair["data"] == data]
        longer = [pair["tokens"][0] - pair["tokens"][1] for pair in chosen]
        for model in chosen[0]["scores"]:
            margins = [pair["scores"][model][0] - pair["scores"][model][1] for pair in chosen]
            figures.setdefault(model, {})[data] = of_margins(margins, longer)
    return figures


def of_margins(margins: Sequence[float], longer: Sequence[int]) -> dict[str, Any]:
    """Figures of one model on one set: r(chosen) - r(rejected) and by how many tokens the chosen side is the longer."""
    accuracy, length_only = pair_accuracy(margins), length_accuracy(longer)
    unequal = [m if d > 0 else -m for m, d in zip(margins, longer, strict=True) if d]
    return {
        "pairs": len(margins),
        "accuracy": accuracy,
        "accuracy_ci95": list(wilson_interval(accuracy, len(margins))),
        "by_length": dict(by_length(margins, longer)),
        "prefers_longer": pair_accuracy(unequal) if unequal else None,
        "margin_length_correlation": correlation(margins, longer),
        "length_only_accuracy": length_only,
        "length_explains": (length_only - 0.5) / (accuracy - 0.5) if accuracy > 0.5 else None,
        "calibration": [list(part) for part in calibration(*sureness(margins))],
        "ece": calibration_error(*sureness(margins)),
    }


def by_length(margins: Sequence[float], longer: Sequence[int]) -> Iterator[tuple[str, dict[str, float]]]:
    """Accuracy where the chosen side is the longer one, as long, and the shorter one; groups without pairs left out."""
    for name, sign in (("chosen_longer", 1), ("equal", 0), ("chosen_shorter", -1)):
        group = [m for m, d in zip(margins, longer, strict=True) if (d > 0) - (d < 0) == sign]
        if group:
            yield name, {"pairs": len(group), "accuracy": pair_accuracy(group)}


def length_accuracy(longer: Sequence[int]) -> float:
    """What a rule that looks at length alone gets right: the longer side, or the shorter one if that is better here."""
    share = pair_accuracy(longer)
    return max(share, 1 - share)


def sureness(margins: Sequence[float]) -> tuple[list[float], list[float]]:
    """How sure the model is of the side it prefers, σ(|m|), and whether it is the chosen one (a tie is half right)."""
    sure = [1 / (1 + math.exp(-abs(m))) for m in margins]
    return sure, [0.5 if m == 0 else float(m > 0) for m in margins]


def mostly_length(figures: dict[str, Any]) -> bool:
    """Whether a rule about length, itself better than a coin, makes up most of what a model is better than a coin."""
    explains = figures["length_explains"]
    beats_a_coin = wilson_interval(figures["length_only_accuracy"], figures["pairs"])[0] > 0.5
    return explains is not None and explains >= MOST and beats_a_coin


def warnings(reward_models: dict[str, dict[str, dict[str, Any]]]) -> Iterator[str]:
    """A sentence for every model and set where length alone does most of the work."""
    for model, sets in reward_models.items():
        for data, figures in sets.items():
            if mostly_length(figures):
                yield (
                    f"{model} on {data}: length alone is right on {100 * figures['length_only_accuracy']:.1f}%, the "
                    f"model on {100 * figures['accuracy']:.1f}%: {100 * min(figures['length_explains'], 1):.0f}% of "
                    "its gain over a coin could be a rule about length; compare answers of equal length"
                )
