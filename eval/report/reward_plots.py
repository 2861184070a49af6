"""Plots of how reliable rewards are: calibration, accuracy by length, scores of both sides."""

from collections.abc import Iterator, Sequence

import numpy as np

from eval.report.drawing import BAD, GOOD, MUTED, Plot, canvas, count_axis, horizontal_line, legend, legend_label
from eval.report.evaluation_files import EvaluationFiles, Pair
from eval.statistics import pair_accuracy

HISTOGRAM_BINS, LENGTH_GROUPS = 30, 6


def reward_plots(evaluation: EvaluationFiles) -> Iterator[Plot]:
    """Yield the plots of all rewards on the first set of comparisons, if there is one."""
    if not evaluation.pairs:
        return
    name = evaluation.pairs[0]["set"]
    pairs = [pair for pair in evaluation.pairs if pair["set"] == name]
    yield calibration_plot(evaluation, name)
    yield length_difference_plot(evaluation, pairs, name)
    yield histogram(pairs, name)


def calibration_plot(evaluation: EvaluationFiles, name: str) -> Plot:
    """Plot each reward's accuracy against its confidence."""
    figure, (axes,) = canvas()
    axes.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
    for reward, measures in evaluation.summary["rewards"].items():
        if name in measures["comparisons"]:
            confidence, accuracy, _ = zip(*measures["comparisons"][name]["calibration"], strict=True)
            axes.plot(
                confidence,
                accuracy,
                "o-",
                markersize=3.5,
                color=evaluation.plot_colour(reward),
                label=legend_label(reward),
            )
    axes.set(title="Calibration", xlabel="confidence σ(|margin|)", ylabel="accuracy")
    legend(axes)
    return Plot(
        "calibration",
        f"Comparisons of “{name}” by the reward's confidence in the side it prefers. On the dotted line, accuracy "
        "equals confidence; below it, the reward is overconfident.",
        figure,
    )


def length_difference_plot(evaluation: EvaluationFiles, pairs: Sequence[Pair], name: str) -> Plot:
    """Plot accuracy against length difference, in groups of equally many comparisons."""
    figure, (axes,) = canvas()
    ordered = sorted(pairs, key=lambda pair: pair["tokens"][0] - pair["tokens"][1])
    groups = [list(group) for group in np.array_split(np.arange(len(ordered)), LENGTH_GROUPS) if len(group)]
    longer = [float(np.mean([np.subtract(*ordered[at]["tokens"]) for at in group])) for group in groups]
    for reward in pairs[0]["scores"]:
        accuracies = [
            pair_accuracy([float(np.subtract(*ordered[at]["scores"][reward])) for at in group]) for group in groups
        ]
        axes.plot(
            longer, accuracies, "o-", markersize=3.5, color=evaluation.plot_colour(reward), label=legend_label(reward)
        )
    horizontal_line(axes, 0.5, "chance")
    axes.set(title="Accuracy by length", ylabel="accuracy")
    count_axis(axes.xaxis, "tokens by which the chosen side is longer")
    legend(axes)
    return Plot(
        "accuracy_length",
        f"Comparisons of “{name}” in groups of equal size. A line that rises to the right means that the reward "
        "prefers longer answers.",
        figure,
    )


def histogram(pairs: Sequence[Pair], name: str) -> Plot:
    """Plot histograms of the scores of both sides, with a panel per reward."""
    rewards = list(pairs[0]["scores"])
    figure, panels = canvas(len(rewards), share=False)
    for axes, reward in zip(panels, rewards, strict=True):
        sides = [[pair["scores"][reward][side] for pair in pairs] for side in (0, 1)]
        edges = np.histogram_bin_edges(sides, bins=HISTOGRAM_BINS)
        for scores, colour, side in zip(sides, (GOOD, BAD), ("chosen", "rejected"), strict=True):
            axes.hist(scores, edges.tolist(), color=colour, alpha=0.5, label=side)
        axes.set_xlabel(f"score by {reward}")
        count_axis(axes.yaxis, "answers")
    panels[0].set_title("Scores of both sides")
    legend(panels[0])
    return Plot(
        "score_histogram",
        f"Comparisons of “{name}”. Where the two histograms overlap, the score alone does not separate the sides.",
        figure,
    )
