"""The plots of whether the reward means quality: gold beside proxy, and the score against length."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from chatml import END_OF_TEXT, IM_END
from engine.scoring.gold import Gold
from eval.drawing import BLUE, INK, ORANGE, Plot, binned_mean, canvas, curve, legend
from eval.plots import series, shade_warmup
from eval.stages import Stage
from eval.statistics import best_of_kl, expected_best_of, mean
from eval.summary import Sample

# Stretches of length in which mean scores are taken.
LENGTH_BINS = 12


def gold_plots(samples: list[Sample], summary: dict[str, Any], ppo: Stage | None, gold: Gold | None) -> Iterator[Plot]:
    """Where the true quality is known: does it follow the reward?"""
    if "best_of_n" in summary and "gold_sft" in summary:
        yield proxy_plot(samples, summary)
    if ppo and gold and ppo.samples and all("record" in row for row in ppo.samples):
        yield gold_over_steps(ppo, gold)


def proxy_plot(samples: list[Sample], summary: dict[str, Any]) -> Plot:
    """Gold and proxy against KL: best of k from the SFT answers for every k, and PPO."""
    ks = range(1, summary["best_of_n"] + 1)
    answers = [sample["answers"]["sft"] for sample in samples]
    scores = [[answer["score"] for answer in group] for group in answers]
    lowest = min((score for group in scores for score in group if score is not None), default=0.0)
    figure, panels = canvas(2)
    for axes, label, ppo, value in (
        (panels[0], "gold: true quality", "gold_ppo", lambda answer: answer["gold"]["gold"]),
        (panels[1], "proxy: model's score", "score_ppo", lambda a: lowest if a["score"] is None else a["score"]),
    ):
        values = [[value(answer) for answer in group] for group in answers]
        best = [mean([expected_best_of(s, v, k) for s, v in zip(scores, values, strict=True)]) for k in ks]
        axes.plot([best_of_kl(k) for k in ks], best, "o-", markersize=3.5, color=BLUE, label="SFT, best of 1, 2, …")
        if summary.get(ppo) is not None:
            axes.plot(summary["kl_ppo_ref"], summary[ppo], "D", markersize=6.5, color=ORANGE, label="PPO")
        axes.set_ylabel(label)
    panels[0].set_title("Gold beside proxy")
    legend(panels[0])
    panels[1].set_xlabel("KL from SFT, nats an answer")
    return Plot(
        "gold_proxy",
        f"Blue: the answer that the reward model likes best of 1 to {ks[-1]}. Where the proxy rises and gold falls, "
        "the reward model is being fooled.",
        figure,
    )


def gold_over_steps(ppo: Stage, gold: Gold) -> Plot:
    """Gold of the answers that PPO logged, by step, over the reward model's score of the same steps."""
    by_step: dict[int, list[float]] = defaultdict(list)
    for row in ppo.samples:
        answer = row["response"].removesuffix(IM_END).removesuffix(END_OF_TEXT)
        by_step[row["step"]].append(gold(row["record"], answer)["gold"])
    figure, (above, below) = canvas(2)
    shade_warmup(above, ppo)
    shade_warmup(below, ppo)
    curve(above, list(by_step), [mean(values) for values in by_step.values()], INK)
    curve(below, *series(ppo, "score"), ORANGE)
    above.set(title="Gold while PPO runs", ylabel="gold: true quality")
    below.set(xlabel="PPO step", ylabel="proxy: model's score")
    return Plot(
        "gold_over_steps",
        "Gold of the few answers that PPO logs at each step, measured only now: training never saw it.",
        figure,
    )


def length_plot(samples: list[Sample]) -> Iterator[Plot]:
    """Score against length of the answers that ended."""
    figure, (axes,) = canvas()
    for policy, colour, label in (("sft", BLUE, "SFT"), ("ppo", ORANGE, "PPO")):
        answers = [sample["answers"][policy][0] for sample in samples if policy in sample["answers"]]
        scored = [(answer["tokens"], answer["score"]) for answer in answers if answer.get("score") is not None]
        if scored:
            tokens, scores = zip(*scored, strict=True)
            axes.scatter(tokens, scores, s=11, color=colour, alpha=0.4, linewidth=0)
            axes.plot(*binned_mean(tokens, scores, LENGTH_BINS), "o-", markersize=3.5, color=colour, label=label)
    if not axes.collections:
        return
    legend(axes)
    axes.set(title="Length against score", xlabel="tokens of an answer", ylabel="reward model's score")
    yield Plot(
        "length_score",
        "Each dot is an answer; the lines are means of answers of like length. A line that climbs to the right rewards "
        "length itself.",
        figure,
    )
