"""The plots of how far a score can be trusted: calibration, accuracy by length, scores of either side."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from eval.drawing import BLUE, GREEN, MUTED, ORANGE, PURPLE, Plot, canvas, legend, level
from eval.headlines import MODELS, SETS
from eval.statistics import pair_accuracy
from eval.trust import Pair

COLOURS = (GREEN, PURPLE, BLUE, ORANGE)
HISTOGRAM_BINS, LENGTH_GROUPS = 30, 6

Figures = dict[str, dict[str, dict[str, Any]]]
"""model -> set -> figures, of eval/trust.py"""


def trust_plots(pairs: list[Pair], models: Figures) -> Iterator[Plot]:
    """On the first set of comparisons that there is; of the last model, the reward model where there is one, scores."""
    if not pairs:
        return
    data = pairs[0]["data"]
    here = [pair for pair in pairs if pair["data"] == data]
    yield calibration_plot({name: sets[data] for name, sets in models.items() if data in sets}, data)
    yield length_difference_plot(here, data)
    yield histogram(here, "rm" if "rm" in here[0]["scores"] else next(iter(here[0]["scores"])), data)


def calibration_plot(models: dict[str, dict[str, Any]], data: str) -> Plot:
    """How often a model is right over how sure it is."""
    figure, (axes,) = canvas()
    axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
    for (name, figures), colour in zip(models.items(), COLOURS, strict=False):
        sure, right, _ = zip(*figures["calibration"], strict=True)
        axes.plot(sure, right, "o-", markersize=3.5, color=colour, label=f"{MODELS.get(name, name)}")
    axes.set(title="Calibration", xlabel="σ of the margin's size: how sure", ylabel="right")
    legend(axes)
    return Plot(
        "calibration",
        f"Comparisons ({SETS.get(data, data)}) by how sure a model is of the side it prefers. On the dotted line it is "
        "right as often as it claims; below, it claims too much.",
        figure,
    )


def length_difference_plot(pairs: list[Pair], data: str) -> Plot:
    """Accuracy in groups of equally many comparisons, ordered by how much longer the chosen side is."""
    figure, (axes,) = canvas()
    ordered = sorted(pairs, key=lambda pair: pair["tokens"][0] - pair["tokens"][1])
    groups = [list(group) for group in np.array_split(np.arange(len(ordered)), LENGTH_GROUPS) if len(group)]
    longer = [float(np.mean([np.subtract(*ordered[at]["tokens"]) for at in group])) for group in groups]
    for name, colour in zip(pairs[0]["scores"], COLOURS, strict=False):
        right = [pair_accuracy([float(np.subtract(*ordered[at]["scores"][name])) for at in group]) for group in groups]
        axes.plot(longer, right, "o-", markersize=3.5, color=colour, label=MODELS.get(name, name))
    level(axes, 0.5, "a coin")
    axes.set(title="Right, by length", xlabel="tokens by which the chosen side is longer", ylabel="right")
    legend(axes)
    return Plot(
        "accuracy_length",
        f"Comparisons ({SETS.get(data, data)}) in groups of one size. A line that climbs to the right belongs to a "
        "model that likes length.",
        figure,
    )


def histogram(pairs: list[Pair], model: str, data: str) -> Plot:
    """Scores of both sides."""
    figure, (axes,) = canvas()
    sides = [[pair["scores"][model][side] for pair in pairs] for side in (0, 1)]
    edges = np.histogram_bin_edges(sides, bins=HISTOGRAM_BINS)
    for scores, colour, label in zip(sides, (GREEN, ORANGE), ("chosen", "rejected"), strict=True):
        axes.hist(scores, edges, color=colour, alpha=0.5, label=label)
    axes.set(title="Scores of either side", xlabel=f"{MODELS.get(model, model)}'s score", ylabel="answers")
    legend(axes)
    return Plot(
        "score_histogram",
        f"Comparisons ({SETS.get(data, data)}). What the two heaps share cannot be told apart by the score alone.",
        figure,
    )
