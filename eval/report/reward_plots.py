"""Plots of how far a reward's score can be trusted: calibration, accuracy by length, scores of both sides."""

from collections.abc import Iterator, Sequence

import numpy as np

from eval.report.drawing import BAD, GOOD, MUTED, Plot, canvas, label, legend, level
from eval.report.evaluation_files import EvaluationFiles, Pair
from eval.statistics import pair_accuracy

HISTOGRAM_BINS, LENGTH_GROUPS = 30, 6


def reward_plots(evaluation: EvaluationFiles) -> Iterator[Plot]:
    """Every reward on the first set of comparisons that there is."""
    if not evaluation.pairs:
        return
    name = evaluation.pairs[0]["set"]
    pairs = [pair for pair in evaluation.pairs if pair["set"] == name]
    yield calibration_plot(evaluation, name)
    yield length_difference_plot(evaluation, pairs, name)
    yield histogram(pairs, name)


def calibration_plot(evaluation: EvaluationFiles, name: str) -> Plot:
    """How often a reward is right against how sure it is."""
    figure, (axes,) = canvas()
    axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
    for reward, of in evaluation.summary["rewards"].items():
        if name in of["comparisons"]:
            sure, right, _ = zip(*of["comparisons"][name]["calibration"], strict=True)
            axes.plot(sure, right, "o-", markersize=3.5, color=evaluation.light(reward), label=label(reward))
    axes.set(title="Calibration", xlabel="σ(|margin|): how sure it is", ylabel="share right")
    legend(axes)
    return Plot(
        "calibration",
        f"Comparisons of “{name}” by how sure a reward is of the side it prefers. On the dotted line it is right as "
        "often as it claims; below, it claims too much.",
        figure,
    )


def length_difference_plot(evaluation: EvaluationFiles, pairs: Sequence[Pair], name: str) -> Plot:
    """Accuracy in groups of equally many comparisons, ordered by how much longer the chosen side is."""
    figure, (axes,) = canvas()
    ordered = sorted(pairs, key=lambda pair: pair["tokens"][0] - pair["tokens"][1])
    groups = [list(group) for group in np.array_split(np.arange(len(ordered)), LENGTH_GROUPS) if len(group)]
    longer = [float(np.mean([np.subtract(*ordered[at]["tokens"]) for at in group])) for group in groups]
    for reward in pairs[0]["scores"]:
        right = [
            pair_accuracy([float(np.subtract(*ordered[at]["scores"][reward])) for at in group]) for group in groups
        ]
        axes.plot(longer, right, "o-", markersize=3.5, color=evaluation.light(reward), label=label(reward))
    level(axes, 0.5, "a coin")
    axes.set(title="Right, by length", xlabel="tokens by which the chosen side is longer", ylabel="share right")
    legend(axes)
    return Plot(
        "accuracy_length",
        f"Comparisons of “{name}” in groups of one size. A line that climbs to the right belongs to a reward that "
        "likes length.",
        figure,
    )


def histogram(pairs: Sequence[Pair], name: str) -> Plot:
    """Scores of both sides, a panel for each reward."""
    rewards = list(pairs[0]["scores"])
    figure, panels = canvas(len(rewards), share=False)
    for axes, reward in zip(panels, rewards, strict=True):
        sides = [[pair["scores"][reward][side] for pair in pairs] for side in (0, 1)]
        edges = np.histogram_bin_edges(sides, bins=HISTOGRAM_BINS)
        for scores, colour, side in zip(sides, (GOOD, BAD), ("chosen", "rejected"), strict=True):
            axes.hist(scores, edges, color=colour, alpha=0.5, label=side)
        axes.set(xlabel=f"score by {reward}", ylabel="answers")
    panels[0].set_title("Scores of both sides")
    legend(panels[0])
    return Plot(
        "score_histogram",
        f"Comparisons of “{name}”. Where the two overlap, the score alone cannot tell them apart.",
        figure,
    )
