"""How far reward models can be trusted: how many comparisons they rank right, how surely, and how much of it is length.

    {REWARD: {"comparisons": {SET: FIGURES with "subsets": {SUBSET: {"pairs", "accuracy", "accuracy_ci95"}}}}}

Pure, over the lines of pairs.jsonl; every name is defined by formula in docs/metrics.md. `subsets` is there where the
records of a set have a `subset` (as RewardBench's do).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eval.statistics import calibration, calibration_error, correlation, pair_accuracy, wilson_interval

Pair = Mapping[str, Any]
"""set, subset (null where the record has none), scores: reward -> [chosen, rejected], and tokens: [chosen, rejected]"""
# From this share of its gain over a coin on, a reward model's accuracy is said to be that of a rule about length.
MOSTLY_LENGTH = 0.5


def reward_figures(pairs: Sequence[Pair]) -> dict[str, dict[str, dict[str, Any]]]:
    """{REWARD: {"comparisons": {SET: figures}}}."""
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
    """Figures of one reward on one set: r(chosen) - r(rejected), and by how many tokens the chosen side is longer."""
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
        "calibration": [list(part) for part in calibration(*sureness(margins))],
        "ece": calibration_error(*sureness(margins)),
    }


def accuracy_figures(margins: Sequence[float]) -> dict[str, Any]:
    """How many comparisons, the share ranked right, and its 95 % interval."""
    accuracy = pair_accuracy(margins)
    return {
        "pairs": len(margins),
        "accuracy": accuracy,
        "accuracy_ci95": list(wilson_interval(accuracy, len(margins))),
    }


def by_subset(margins: Sequence[float], subsets: Sequence[str | None]) -> dict[str, dict[str, Any]]:
    """{"subsets": {SUBSET: accuracy}} in the data's order; {} where no record names a subset."""
    names = [name for name in dict.fromkeys(subsets) if name is not None]
    figures = {
        name: accuracy_figures([m for m, subset in zip(margins, subsets, strict=True) if subset == name])
        for name in names
    }
    return {"subsets": figures} if figures else {}


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
    return explains is not None and explains >= MOSTLY_LENGTH and beats_a_coin


def warnings(rewards: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for every reward and set where length alone does most of the work; takes summary.json's `rewards`."""
    for reward, measures in rewards.items():
        for name, figures in measures["comparisons"].items():
            if mostly_length(figures):
                yield (
                    f"{reward} on {name}: length alone is right on {100 * figures['length_only_accuracy']:.1f}%, the "
                    f"model on {100 * figures['accuracy']:.1f}%: {100 * min(figures['length_explains'], 1):.0f}% of "
                    "its gain over a coin could be a rule about length; compare answers of equal length"
                )
