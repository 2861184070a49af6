"""The plots of how the stages went, made of their metrics.jsonl; one whose metrics are absent is left out."""

import math
from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes

from eval.drawing import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    SHADE,
    Plot,
    canvas,
    curve,
    legend,
    level,
)
from eval.stages import Stage

Points = tuple[list[float], list[float]]


def series(stage: Stage, name: str, against: str = "step") -> Points:
    """(x, y) of one metric over another, of the lines that hold both."""
    rows = [row for row in stage.metrics if row.get(name) is not None and row.get(against) is not None]
    return [row[against] for row in rows], [row[name] for row in rows]


def stage_plots(stages: dict[str, Stage]) -> Iterator[Plot]:
    """Of every stage before PPO."""
    titles = {"base": "Pretraining the base model", "sft": "Supervised finetuning"}
    trained = {title: stages[name] for name, title in titles.items() if name in stages}
    trained = {title: stage for title, stage in trained.items() if series(stage, "loss")[0]}
    if trained:
        yield loss_plot(trained)
    rewards = {name: stages[name] for name in ("pmp", "rm") if name in stages}
    rewards = {name: stage for name, stage in rewards.items() if series(stage, "loss")[0]}
    if rewards:
        yield reward_plot(rewards)


def loss_plot(trained: dict[str, Stage]) -> Plot:
    """Losses of next-token prediction, a panel each."""
    figure, panels = canvas(len(trained), share=False)
    for axes, (title, stage) in zip(panels, trained.items(), strict=True):
        curve(axes, *series(stage, "loss"), BLUE, "training")
        held_out = series(stage, "eval_loss")
        if held_out[0]:
            axes.plot(*held_out, "o", markersize=4.5, markerfacecolor="none", color=BLUE, label="held out")
            legend(axes)
        axes.set(title=title, xlabel="step", ylabel="loss, nats a token")
    return Plot(
        "losses",
        "How badly the next token is foreseen: in pretraining of all text, in finetuning of what the assistant says.",
        figure,
    )


def reward_plot(stages: dict[str, Stage]) -> Plot:
    """Loss and accuracy of preference model and reward model."""
    figure, (above, below) = canvas(2)
    for (name, stage), colour in zip(stages.items(), (PURPLE, GREEN), strict=False):
        for axes, metric in ((above, "loss"), (below, "accuracy")):
            curve(axes, *series(stage, metric), colour, {"pmp": "PMP", "rm": "reward model"}[name])
            axes.plot(*series(stage, f"eval_{metric}"), "o", markersize=4.5, markerfacecolor="none", color=colour)
    level(above, math.log(2), "a coin")
    level(below, 0.5, "a coin")
    above.set(title="Learning what is preferred", ylabel="loss, nats a pair")
    below.set(xlabel="step of each stage", ylabel="pairs ranked right")
    legend(above)
    return Plot(
        "reward_model",
        "The preference model (PMP) learns from many comparisons, not all of them right; the reward model goes on from "
        "there with few and clean ones. Circles: held-out comparisons.",
        figure,
    )


# Name, title, (metric, axis label, colour) of every panel, caption; each over PPO's steps.
PPO_CURVES = (
    (
        "ppo_score",
        "Reward",
        [("score", "reward model's score", ORANGE)],
        "Mean score of each step's finished answers: what PPO is asked to raise. Grey: only the value model learns.",
    ),
    (
        "ppo_kl",
        "Distance from SFT",
        [("kl", "KL, nats an answer", ORANGE)],
        "How much likelier the policy finds its answers than the SFT model does; every nat is charged to the reward.",
    ),
    (
        "ppo_entropy",
        "Entropy",
        [("entropy", "nats a token", ORANGE)],
        "How undecided the policy is about its next token. Near 0 it says the same thing every time.",
    ),
    (
        "ppo_length",
        "Length of answers",
        [("response_tokens", "tokens an answer", ORANGE), ("without_end", "share cut off", PURPLE)],
        "Reward models like length, so a steep rise is suspicious. Answers that are cut off are penalised.",
    ),
    (
        "ppo_value",
        "Value model",
        [("value_loss", "value loss", GREEN), ("explained_variance", "explained variance", GREEN)],
        "How well the return is foreseen: an explained variance of 1 is perfect, 0 no better than a constant.",
    ),
    (
        "ppo_update",
        "Size of the updates",
        [("approx_kl", "KL, nats a token", ORANGE), ("policy_clip_fraction", "share clipped", ORANGE)],
        "How far a step moves the policy from the one that wrote the answers, and how often the clip holds it back.",
    ),
    (
        "ppo_pretrain",
        "Pretraining text beside PPO",
        [("pretrain_loss", "loss, nats a token", BLUE)],
        "Loss on the plain text that is mixed in so that the policy does not forget.",
    ),
)


def ppo_plots(ppo: Stage) -> Iterator[Plot]:
    """What PPO reports of its steps, the figures that matter most first."""
    for name, title, panels, caption in PPO_CURVES:
        if all(series(ppo, metric)[0] for metric, _, _ in panels):
            yield over_steps(ppo, name, title, panels, caption)
        if name == "ppo_score" and series(ppo, "score", against="kl")[0]:
            yield kl_plot(ppo)


def over_steps(ppo: Stage, name: str, title: str, metrics: Sequence[tuple[str, str, str]], caption: str) -> Plot:
    """Metrics over steps, one above the other; each is (name, axis label, colour)."""
    figure, panels = canvas(len(metrics))
    for axes, (metric, label, colour) in zip(panels, metrics, strict=True):
        shade_warmup(axes, ppo)
        curve(axes, *series(ppo, metric), colour)
        axes.set_ylabel(label)
    panels[0].set_title(title)
    panels[-1].set_xlabel("PPO step")
    return Plot(name, caption, figure)


def shade_warmup(axes: Axes, ppo: Stage) -> None:
    """Grey where only the value model is trained."""
    steps = ppo.recipe["ppo"]["value_warmup_steps"]
    if steps:
        axes.axvspan(0.5, steps + 0.5, color=SHADE, linewidth=0)


def kl_plot(ppo: Stage) -> Plot:
    """Score against KL, a dot a step."""
    figure, (axes,) = canvas()
    kl, score = series(ppo, "score", against="kl")
    axes.plot(kl, score, color=ORANGE, linewidth=0.8, alpha=0.3)
    axes.scatter(kl, score, s=16, color=ORANGE, alpha=[0.25 + 0.75 * i / len(kl) for i in range(len(kl))], linewidth=0)
    for at, text, offset, ha in ((0, "first step", (8, -3), "left"), (-1, "last step", (0, 8), "right")):
        axes.annotate(text, (kl[at], score[at]), xytext=offset, textcoords="offset points", ha=ha, color=MUTED)
    axes.set(title="What the reward costs", xlabel="KL from SFT, nats an answer", ylabel="reward model's score")
    return Plot(
        "ppo_kl_score",
        "Each dot is a step. A curve that goes on to the right without rising pays distance for nothing.",
        figure,
    )
