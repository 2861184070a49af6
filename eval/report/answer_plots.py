"""Plots of whether a higher reward means better answers: gold beside the reward's score, and score against length."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from chatml import END_OF_TEXT, IM_END
from engine.scoring.gold import Gold
from eval.report.drawing import INK, Plot, binned_mean, canvas, count_axis, curve, legend, legend_label
from eval.report.evaluation_files import EvaluationFiles
from eval.report.stage_plots import series, shade_warmup
from eval.run_folders import Stage
from eval.statistics import best_of_kl, expected_best_of, mean
from eval.subjects import BestOf

# Number of length bins for mean scores.
LENGTH_BINS = 12
Candidates = Sequence[Sequence[dict[str, Any]]]
"""n answers per item, each with `score` (None if it never ended) and `gold` (its parts)"""


def gold_plots(evaluation: EvaluationFiles, gold: Gold | None) -> Iterator[Plot]:
    """Yield the plots of gold beside the reward's score: best of n against KL, and PPO runs by step."""
    sources: dict[str, dict[str, Candidates]] = defaultdict(dict)
    for name, found in evaluation.candidates.items():
        kind = evaluation.recipe.eval.subject_kinds().get(name)
        if isinstance(kind, BestOf) and found and all("gold" in answer for group in found for answer in group):
            sources[kind.best_of][name] = found
    for number, (source, of_source) in enumerate(sources.items(), start=1):
        yield proxy_plot(evaluation, source, of_source, "gold_proxy" if number == 1 else f"gold_proxy_{number}")
    for number, (run, stage) in enumerate(evaluation.stages_of_kind("ppo").items(), start=1):
        if gold and stage.rollouts and all("record" in row for row in stage.rollouts):
            yield gold_over_steps(evaluation, run, stage, gold, number)


def proxy_plot(evaluation: EvaluationFiles, source: str, candidates: Mapping[str, Candidates], name: str) -> Plot:
    """Plot gold and score against the KL to `source`: best of k of its answers for every k, and other subjects."""
    figure, panels = canvas(2)
    for axes, title, metric in ((panels[0], "gold", "gold"), (panels[1], "reward's score", "score")):
        for subject, groups in candidates.items():
            points = best_of_curve(groups, metric)
            colour = evaluation.plot_colour(subject)
            axes.plot(*points, "o-", markersize=3.5, color=colour, label=legend_label(subject))
        for subject, kl, value in others_at_their_kl(evaluation, source, candidates, metric):
            axes.plot(
                kl, value, "D", markersize=6.5, color=evaluation.plot_colour(subject), label=legend_label(subject)
            )
        axes.set_ylabel(title)
    panels[0].set_title("Gold and the reward's score")
    legend(panels[0])
    panels[1].set_xlabel(f"KL to {source}, nats per answer")
    return Plot(
        name,
        f"Lines: the best of 1, 2, … answers of {source} by the reward. Where the score rises but gold falls, the "
        "reward is being exploited (reward hacking).",
        figure,
    )


def best_of_curve(groups: Candidates, metric: str) -> tuple[list[float], list[float]]:
    """Return (KL in nats, expected gold or score) of the best of 1 to n answers, averaged over items.

    An answer without a score ranks lowest, and its score counts as the lowest known one.
    """
    scores = [[answer["score"] for answer in group] for group in groups]
    lowest = min((score for group in scores for score in group if score is not None), default=0.0)
    if metric == "gold":
        values = [[answer["gold"]["total"] for answer in group] for group in groups]
    else:
        values = [[lowest if score is None else score for score in group] for group in scores]
    ks = range(1, min(map(len, groups)) + 1)
    best = [mean([expected_best_of(s, v, k) for s, v in zip(scores, values, strict=True)]) for k in ks]
    return [best_of_kl(k) for k in ks], best


def others_at_their_kl(
    evaluation: EvaluationFiles, source: str, candidates: Mapping[str, Candidates], metric: str
) -> Iterator[tuple[str, float, float]]:
    """Yield (subject, KL, value) of the other subjects. They have a KL only if `source` is the reference."""
    for subject in evaluation.subjects if source == evaluation.reference else []:
        answers = evaluation.summary["subjects"][subject].get("answers") or {}
        kl, value = answers.get("kl_to_reference"), answers.get(metric)
        if subject not in candidates and subject != source and kl is not None and value is not None:
            yield subject, kl, value


def gold_over_steps(evaluation: EvaluationFiles, run: str, stage: Stage, gold: Gold, number: int) -> Plot:
    """Plot the gold of the answers that a PPO run logged, by step, above the reward's score."""
    by_step: dict[int, list[float]] = defaultdict(list)
    for row in stage.rollouts:
        answer = row["response"].removesuffix(IM_END).removesuffix(END_OF_TEXT)
        by_step[row["step"]].append(gold(row["record"], answer).total)
    scores = series(stage, "score")
    figure, panels = canvas(2 if scores[0] else 1)
    for axes in panels:
        shade_warmup(axes, {run: stage})
    curve(panels[0], list(by_step), [mean(values) for values in by_step.values()], INK)
    panels[0].set(title=f"Gold during the training of {run}", ylabel="gold")
    if scores[0]:
        curve(panels[1], *scores, evaluation.plot_colour(run))
        panels[1].set_ylabel("reward's score")
    count_axis(panels[-1].xaxis, "PPO step")
    return Plot(
        "gold_over_steps" if number == 1 else f"gold_over_steps_{number}",
        "Gold of the few answers that PPO logs at each step, computed for this report: training never saw it.",
        figure,
    )


def length_plot(evaluation: EvaluationFiles) -> Iterator[Plot]:
    """Plot score against length, for answers that have a score."""
    figure, (axes,) = canvas()
    for subject in evaluation.subjects:
        scored = [
            (answer["tokens"], answer["score"])
            for answer in evaluation.answers
            if answer["subject"] == subject and answer["score"] is not None and answer["tokens"] is not None
        ]
        if scored:
            tokens, scores = zip(*scored, strict=True)
            colour = evaluation.plot_colour(subject)
            axes.scatter(tokens, scores, s=11, color=colour, alpha=0.3, linewidth=0)
            means = binned_mean(tokens, scores, LENGTH_BINS)
            axes.plot(*means, "o-", markersize=3.5, color=colour, label=legend_label(subject))
    if not axes.collections:
        return
    axes.set(title="Score against length", ylabel="reward's score")
    count_axis(axes.xaxis, "tokens per answer")
    legend(axes)
    yield Plot(
        "length_score",
        "Each dot is an answer; the lines are means over answers of similar length. A line that rises to the right "
        "means that longer answers score higher.",
        figure,
    )
