"""Plots of how the training stages went, made of their metrics.jsonl; one whose metrics are absent is left out."""

import math
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.axes import Axes

from eval.report.drawing import SHADE, Plot, canvas, curve, held_out, label, legend, level
from eval.report.evaluation_files import EvaluationFiles
from eval.run_folders import Stage

Stages = Mapping[str, Stage]


def series(stage: Stage, name: str, against: str = "step") -> tuple[list[float], list[float]]:
    """(x, y) of one metric over another, of the lines that have both."""
    rows = [row for row in stage.metrics if row.get(name) is not None and row.get(against) is not None]
    return [row[against] for row in rows], [row[name] for row in rows]


def with_metrics(stages: Stages, *names: str) -> dict[str, Stage]:
    """Those that logged all of these metrics at least once."""
    return {name: stage for name, stage in stages.items() if all(series(stage, metric)[0] for metric in names)}


def training_plots(evaluation: EvaluationFiles) -> Iterator[Plot]:
    """Losses of finetuned models and of reward models."""
    if finetuned := with_metrics(evaluation.stages_of_kind("sft"), "loss"):
        yield loss_plot(evaluation, finetuned)
    if rewards := with_metrics(evaluation.stages_of_kind("reward"), "loss", "accuracy"):
        yield reward_plot(evaluation, rewards)


def loss_plot(evaluation: EvaluationFiles, stages: Stages) -> Plot:
    """Losses of next-token prediction, a panel for each model."""
    figure, panels = canvas(len(stages), share=False)
    for axes, (name, stage) in zip(panels, stages.items(), strict=True):
        colour = evaluation.light(name)
        curve(axes, *series(stage, "loss"), colour)
        held_out(axes, *series(stage, "eval_loss"), colour)
        axes.set(title=f"Training {name}", xlabel="step", ylabel="loss, nats a token")
    return Plot("losses", "Loss of the next token, over the tokens that are trained on. Circles: held out.", figure)


def reward_plot(evaluation: EvaluationFiles, stages: Stages) -> Plot:
    """Loss and accuracy of reward models in training."""
    figure, (above, below) = canvas(2)
    for name, stage in stages.items():
        colour = evaluation.light(name)
        for axes, metric in ((above, "loss"), (below, "accuracy")):
            curve(axes, *series(stage, metric), colour, label(name))
            held_out(axes, *series(stage, f"eval_{metric}"), colour)
    level(above, math.log(2), "a coin")
    level(below, 0.5, "a coin")
    above.set(title="Training the reward models", ylabel="loss, nats a pair")
    below.set(xlabel="step of each run", ylabel="pairs ranked right")
    legend(above)
    return Plot("reward_model", "Loss and accuracy on the comparisons of each step. Circles: held out.", figure)


# Name, title, (metric, axis label) of every panel, caption; each over PPO's steps.
PPO_CURVES = (
    ("ppo_score", "Reward", [("score", "reward's score")],
     "Mean score of each step's finished answers: what PPO is to raise. Grey: only the value model is trained."),
    ("ppo_kl", "Distance from the start", [("kl", "KL, nats an answer")],
     "How much likelier the policy finds its answers than the model it started as does; every nat is charged to the "
     "reward."),
    ("ppo_entropy", "Entropy", [("entropy", "nats a token")],
     "How undecided the policy is about its next token. Near 0 it gives the same answer every time."),
    ("ppo_length", "Length of answers", [("response_tokens", "tokens an answer"), ("without_end", "share cut off")],
     "Reward models tend to like length, so a steep rise is suspicious. Answers that are cut off are penalised."),
    ("ppo_value", "Value model", [("value_loss", "value loss"), ("explained_variance", "explained variance")],
     "How well the return is predicted: an explained variance of 1 is perfect, 0 no better than a constant."),
    ("ppo_update", "Size of the updates",
     [("approx_kl", "KL, nats a token"), ("policy_clip_fraction", "share clipped")],
     "How far a step moves the policy from the one that sampled the answers, and how often the clip limits it."),
    ("ppo_pretrain", "Pretraining text beside PPO", [("pretrain_loss", "loss, nats a token")],
     "Loss on the plain text that is mixed in against forgetting."),
)  # fmt: skip


def without_scores(evaluation: EvaluationFiles) -> Iterator[str]:
    """A sentence for each PPO run with steps in which no answer ended: their plots have no score to show."""
    for name, stage in evaluation.stages_of_kind("ppo").items():
        none = [row["step"] for row in stage.metrics if row.get("without_end") == 1]
        if none:
            yield (
                f"{name}: none of the answers ended in {len(none):,} of {len(stage.metrics):,} steps, the last of them "
                f"step {none[-1]:,}. Such a step has no score, and its policy learns from penalties alone."
            )


def ppo_plots(evaluation: EvaluationFiles) -> Iterator[Plot]:
    """What PPO runs report of their steps, the figures that matter most first; several runs share each plot."""
    runs = evaluation.stages_of_kind("ppo")
    for name, title, panels, caption in PPO_CURVES:
        shown = with_metrics(runs, *(metric for metric, _ in panels))
        if shown:
            yield over_steps(evaluation, shown, name, title, panels, caption)
        if name == "ppo_score":
            yield from mix_plots(evaluation, runs)
        if name == "ppo_score" and (shown := with_metrics(runs, "score", "kl")):
            yield kl_plot(evaluation, shown)


def mix_plots(evaluation: EvaluationFiles, runs: Stages) -> Iterator[Plot]:
    """For each run with several rewards, the raw score of each by itself: one may rise at another's cost."""
    for name, stage in runs.items():
        parts = [(f"score_{part}", f"score by {part}") for part in stage.recipe["reward"].get("mix") or {}]
        if parts and (shown := with_metrics({name: stage}, *(metric for metric, _ in parts))):
            title, caption = f"Parts of the reward of {name}", "Mean raw score of each step's finished answers by each."
            yield over_steps(evaluation, shown, f"ppo_parts_{name}", title, parts, caption)


def over_steps(
    evaluation: EvaluationFiles,
    runs: Stages,
    name: str,
    title: str,
    metrics: Sequence[tuple[str, str]],
    caption: str,
) -> Plot:
    """Metrics over steps, one above the other; each is (name, axis label)."""
    figure, panels = canvas(len(metrics))
    for axes, (metric, unit) in zip(panels, metrics, strict=True):
        shade_warmup(axes, runs)
        for run, stage in runs.items():
            curve(axes, *series(stage, metric), evaluation.light(run), label(run))
        axes.set_ylabel(unit)
    panels[0].set_title(title)
    panels[-1].set_xlabel("PPO step")
    legend(panels[0])
    return Plot(name, caption, figure)


def shade_warmup(axes: Axes, runs: Stages) -> None:
    """Grey the steps in which every run shown trains its value model alone."""
    steps = min(stage.recipe["ppo"]["value_warmup_steps"] for stage in runs.values())
    if steps:
        axes.axvspan(0.5, steps + 0.5, color=SHADE, linewidth=0)


def kl_plot(evaluation: EvaluationFiles, runs: Stages) -> Plot:
    """Score against KL, a dot a step."""
    figure, (axes,) = canvas()
    for run, stage in runs.items():
        kl, score = series(stage, "score", against="kl")
        colour = evaluation.light(run)
        axes.plot(kl, score, color=colour, linewidth=0.8, alpha=0.3)
        fading = [0.25 + 0.75 * i / len(kl) for i in range(len(kl))]
        axes.scatter(kl, score, s=16, color=colour, alpha=fading, linewidth=0)
        axes.plot(kl[-1:], score[-1:], "o", markersize=7, color=colour, label=label(run))
    axes.set(title="What the reward costs", xlabel="KL from the start, nats an answer", ylabel="reward's score")
    legend(axes)
    return Plot(
        "ppo_kl_score",
        "Each dot is a step, later ones darker, the last one large. A curve that moves to the right without rising "
        "pays distance for nothing.",
        figure,
    )
