"""Plots of training stages, from their metrics.jsonl. Plots whose metrics are missing are left out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from eval.report.drawing import (
    SHADE,
    Plot,
    canvas,
    count_axis,
    curve,
    held_out_points,
    horizontal_line,
    legend,
    legend_label,
    not_below_zero,
)
from eval.report.evaluation_files import EvaluationFiles
from eval.run_folders import Stage

Stages = Mapping[str, Stage]


def series(stage: Stage, name: str, against: str = "step") -> tuple[list[float], list[float]]:
    """Return (x, y) of the metric `name` over the metric `against`, from the lines that have both."""
    rows = [row for row in stage.metrics if row.get(name) is not None and row.get(against) is not None]
    return [row[against] for row in rows], [row[name] for row in rows]


def with_metrics(stages: Stages, *names: str) -> dict[str, Stage]:
    """Return the stages that logged all of these metrics at least once."""
    return {name: stage for name, stage in stages.items() if all(series(stage, metric)[0] for metric in names)}


def training_plots(evaluation: EvaluationFiles) -> Iterator[Plot]:
    """Yield the loss plots of finetuned models and of reward models."""
    if finetuned := with_metrics(evaluation.stages_of_kind("sft"), "loss"):
        yield loss_plot(evaluation, finetuned)
    if rewards := with_metrics(evaluation.stages_of_kind("reward"), "loss", "accuracy"):
        yield reward_plot(evaluation, rewards)


def loss_plot(evaluation: EvaluationFiles, stages: Stages) -> Plot:
    """Plot the losses of next-token prediction, with a panel per model."""
    figure, panels = canvas(len(stages), share=False)
    for axes, (name, stage) in zip(panels, stages.items(), strict=True):
        colour = evaluation.plot_colour(name)
        curve(axes, *series(stage, "loss"), colour)
        held_out_points(axes, *series(stage, "eval_loss"), colour)
        axes.set(title=f"Training {name}", ylabel="loss, nats per token")
        count_axis(axes.xaxis, "step")
    return Plot("losses", "Next-token loss over the tokens that are trained on. Circles: held-out data.", figure)


def reward_plot(evaluation: EvaluationFiles, stages: Stages) -> Plot:
    """Plot the loss and accuracy of reward models during training."""
    figure, (above, below) = canvas(2)
    for name, stage in stages.items():
        colour = evaluation.plot_colour(name)
        for axes, metric in ((above, "loss"), (below, "accuracy")):
            curve(axes, *series(stage, metric), colour, legend_label(name))
            held_out_points(axes, *series(stage, f"eval_{metric}"), colour)
    horizontal_line(above, math.log(2), "chance")
    horizontal_line(below, 0.5, "chance")
    above.set(title="Training the reward models", ylabel="loss, nats per pair")
    below.set_ylabel("accuracy")
    count_axis(below.xaxis, "step of each run")
    legend(above)
    return Plot("reward_model", "Loss and accuracy on the comparisons of each step. Circles: held-out data.", figure)


# File name, title, (metric, axis label) of every panel, caption. The x axis is PPO's step.
PPO_CURVES = (
    ("ppo_score", "Reward", [("score", "reward's score")],
     "Mean score of each step's finished answers, which PPO maximises. Grey: only the value model is trained."),
    ("ppo_kl", "KL to the reference policy", [("kl", "KL, nats per answer")],
     "Mean of log π(y | x) − log π_ref(y | x) over the policy's own answers. The reward is reduced in proportion to "
     "this KL."),
    ("ppo_entropy", "Entropy", [("entropy", "nats per token")],
     "Entropy of the policy's next-token distribution. Near 0, the policy gives the same answer every time."),
    ("ppo_length", "Length of answers", [("response_tokens", "tokens per answer"), ("without_end", "share cut off")],
     "Reward models tend to prefer longer answers, so a steep rise is suspicious. Answers that are cut off are "
     "penalised."),
    ("ppo_value", "Value model", [("value_loss", "value loss"), ("explained_variance", "explained variance")],
     "How well the value model predicts returns: an explained variance of 1 is perfect, 0 is no better than a "
     "constant."),
    ("ppo_update", "Size of the updates",
     [("approx_kl", "KL, nats per token"), ("policy_clip_fraction", "share clipped")],
     "How far a step moves the policy from the one that sampled the answers, and how often the ratio is clipped."),
    ("ppo_pretrain", "Pretraining text mixed into PPO", [("pretrain_loss", "loss, nats per token")],
     "Loss on the plain text that is mixed in against forgetting."),
)  # fmt: skip


def without_scores(evaluation: EvaluationFiles) -> Iterator[str]:
    """Yield a sentence for each PPO run with steps in which no answer ended, since the plots have no score there."""
    for name, stage in evaluation.stages_of_kind("ppo").items():
        none = [row["step"] for row in stage.metrics if row.get("without_end") == 1]
        if none:
            yield (
                f"{name}: no answer ended in {len(none):,} of {len(stage.metrics):,} steps, most recently in step "
                f"{none[-1]:,}. Such a step has no score, so the policy learns from penalties alone."
            )


def ppo_plots(evaluation: EvaluationFiles) -> Iterator[Plot]:
    """Yield the plots of PPO metrics by step, the most important ones first. All runs share each plot."""
    runs = evaluation.stages_of_kind("ppo")
    for name, title, panels, caption in PPO_CURVES:
        shown = with_metrics(runs, *(metric for metric, _ in panels))
        if shown:
            yield over_steps(evaluation, shown, name, title, panels, caption)
        if name == "ppo_score":
            yield from mix_plots(evaluation, runs)
        if name == "ppo_score" and (shown := {run: s for run, s in runs.items() if series(s, "score", "kl")[0]}):
            yield kl_plot(evaluation, shown)


def mix_plots(evaluation: EvaluationFiles, runs: Stages) -> Iterator[Plot]:
    """Yield a plot of raw scores by reward for each run with a mix, since one may rise while another falls."""
    for name, stage in runs.items():
        parts = [(f"score_{part}", f"score by {part}") for part in stage.recipe["reward"].get("mix") or {}]
        if parts and (shown := with_metrics({name: stage}, *(metric for metric, _ in parts))):
            title, caption = f"Parts of the reward of {name}", "Mean raw score of each step's finished answers."
            yield over_steps(evaluation, shown, f"ppo_parts_{name}", title, parts, caption)


def over_steps(
    evaluation: EvaluationFiles,
    runs: Stages,
    name: str,
    title: str,
    metrics: Sequence[tuple[str, str]],
    caption: str,
) -> Plot:
    """Plot metrics over PPO's steps, with a panel for each (name, axis label) in `metrics`."""
    figure, panels = canvas(len(metrics))
    for axes, (metric, unit) in zip(panels, metrics, strict=True):
        shade_warmup(axes, runs)
        for run, stage in runs.items():
            curve(axes, *series(stage, metric), evaluation.plot_colour(run), legend_label(run))
        axes.set_ylabel(unit)
        not_below_zero(axes)
    panels[0].set_title(title)
    count_axis(panels[-1].xaxis, "PPO step")
    legend(panels[0])
    return Plot(name, caption, figure)


def shade_warmup(axes: Axes, runs: Stages) -> None:
    """Shade the steps in which all runs train only their value model."""
    steps = min(stage.recipe["ppo"]["value_warmup_steps"] for stage in runs.values())
    if steps:
        axes.axvspan(0.5, steps + 0.5, color=SHADE, linewidth=0)


def kl_plot(evaluation: EvaluationFiles, runs: Stages) -> Plot:
    """Plot score against KL, with a dot per step."""
    figure, (axes,) = canvas()
    for run, stage in runs.items():
        kl, score = series(stage, "score", against="kl")
        colour = evaluation.plot_colour(run)
        axes.plot(kl, score, color=colour, linewidth=0.8, alpha=0.3)
        fading: Any = [0.25 + 0.75 * i / len(kl) for i in range(len(kl))]
        axes.scatter(kl, score, s=16, color=colour, alpha=fading, linewidth=0)
        axes.plot(kl[-1:], score[-1:], "o", markersize=7, color=colour, label=legend_label(run))
    axes.set(title="Score against KL", xlabel="KL to the reference policy, nats per answer", ylabel="reward's score")
    legend(axes)
    return Plot(
        "ppo_kl_score",
        "Each dot is a step: later ones are darker, the last one is large. A curve that moves right without rising "
        "gains KL but no score.",
        figure,
    )
