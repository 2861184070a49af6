"""The top of the report: a verdict in words for each subject, and tiles with the main figures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.figures import (
    Figure,
    Summary,
    Tone,
    compared_subjects,
    figures,
    lookup,
    main_figure,
    percent,
    win_rate,
    win_tone,
)

Difference = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """Changes from the reference to one subject."""

    subject: str
    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    """names of figures without a significant change"""
    distance: str = ""
    """KL to the reference, as text"""
    remark: str = ""
    """caution for the reader"""


@dataclass(frozen=True)
class Bar:
    """A subject's or a reward's figure in a tile."""

    name: str
    value: str
    tone: Tone = ""


@dataclass(frozen=True)
class Tile:
    label: str
    meaning: str
    bars: list[Bar]


def verdicts(summary: Summary, optimised: Sequence[str] = ()) -> list[Verdict]:
    """Return a verdict for every subject except the reference.

    `optimised` names the subjects that were trained with, or picked by, the reward that gives the figure `score`.
    """
    return [_verdict(summary, name, name in optimised) for name in compared_subjects(summary)]


def _verdict(summary: Summary, subject: str, optimised: bool) -> Verdict:
    main, judged = main_figure(summary), list(_judged(summary, subject))
    sides: dict[Tone, list[str]] = {"better": [], "worse": [], "": []}
    for figure, difference in judged:
        # Where gold is known, the reward's score is not evidence of quality.
        if figure.metric == "score" and main is not None and main.metric == "gold":
            continue
        tone = figure.tone(difference)
        sides[tone].append(_change(figure, difference) if tone else figure.label)
    win = win_rate(summary, subject)
    if win:
        tone = win_tone(win)
        sides[tone].insert(0, _wins(win, tone) if tone else "win rate")
    kl = lookup(summary["subjects"][subject], ("answers", "kl_to_reference"))
    return Verdict(
        subject,
        better=sides["better"],
        worse=sides["worse"],
        unclear=sides[""],
        distance="" if kl is None else f"KL to {summary['reference']}: {kl:.2f} nats per answer",
        remark=_remark(summary, judged, main, optimised),
    )


def _judged(summary: Summary, subject: str) -> Iterator[tuple[Figure, Difference]]:
    """Yield the figures with a better direction, with the subject's difference from the reference."""
    for figure in figures(summary):
        difference = figure.difference(summary, subject)
        if figure.better and difference:
            yield figure, difference


def _change(figure: Figure, difference: Difference) -> str:
    mean, low, high = (figure.show_difference(value) for value in (difference["mean"], *difference["ci95"]))
    unit = " points" if figure.is_share else ""
    label = f"perplexity of {figure.metric}, in bits per byte," if figure.path[0] == "perplexity" else figure.label
    return f"{label} {mean}{unit} (95% interval {low} to {high}, n {difference['n']:,})"


def _wins(win: Difference, tone: Tone) -> str:
    low, high = (percent(value) for value in win["ci95"])
    by = f" by {win['by']}" if "by" in win else ""
    only = "only " if tone == "worse" else ""
    return f"preferred{by} on {only}{percent(win['mean'])} of items (95% interval {low} to {high}, n {win['n']:,})"


def _remark(summary: Summary, judged: Sequence[tuple[Figure, Difference]], main: Figure | None, optimised: bool) -> str:
    tones = {figure.metric: figure.tone(difference) for figure, difference in judged}
    if main is not None and main.metric == "score" and tones.get("score"):
        if optimised:
            return "It was trained or picked by the reward that gives the score, so a higher score is weak evidence."
        return "There is no gold scorer: this verdict is only as reliable as the reward that gives the score."
    if tones.get("score") == "better" and tones.get("gold") == "worse":
        return "The reward's score rose while gold fell: a sign of reward hacking."
    return ""


def tiles(summary: Summary) -> Iterator[Tile]:
    """Yield a tile for each main figure that the summary has, with the values of all subjects."""
    shown, reference = {figure.path: figure for figure in figures(summary)}, summary.get("reference")
    main = main_figure(summary)
    if main is not None:
        meaning = (
            "Quality of the answers, by a scorer that training never sees."
            if main.metric == "gold"
            else "By the reward alone, since there is no gold scorer."
        )
        yield _tile(summary, main, meaning)
    if wins := list(_win_bars(summary)):
        yield Tile(
            f"Preferred to {reference}", "Share of items with the better answer; ties count half. 50% is a draw.", wins
        )
    for path, meaning in (
        (("answers", "accuracy"), "Share of correct answers. Training for style should not lower it."),
        (("answers", "kl_to_reference"), f"In nats per answer: how far a subject has moved from {reference}."),
    ):
        if path in shown:
            yield _tile(summary, shown[path], meaning)
    if figure := next((figure for path, figure in shown.items() if path[0] == "perplexity"), None):
        bits = shown.get(("perplexity", "bits_per_byte", figure.metric))
        forgotten = f". Higher than {reference}'s: a sign of forgetting" if compared_subjects(summary) else ""
        yield _tile(summary, figure, f"Of held-out text{forgotten}.", bits)
    yield from _reward_tiles(summary.get("rewards", {}))


def _tile(summary: Summary, figure: Figure, meaning: str, compared: Figure | None = None) -> Tile:
    """Return a tile with one figure's values, coloured by the differences in it, or in `compared` if given."""
    judge, bars = compared or figure, []
    for subject in summary["subjects"]:
        value, difference = figure.value(summary, subject), judge.difference(summary, subject)
        if value is not None:
            bars.append(Bar(subject, figure.show(value), judge.tone(difference) if difference else ""))
    return Tile(figure.label[0].upper() + figure.label[1:], meaning, bars)


def _win_bars(summary: Summary) -> Iterator[Bar]:
    for subject in compared_subjects(summary):
        win = win_rate(summary, subject)
        if win:
            yield Bar(subject, percent(win["mean"]), win_tone(win))


def _reward_tiles(rewards: dict[str, Any]) -> Iterator[Tile]:
    """Yield a tile with each reward's accuracy on the first set of comparisons."""
    sets = {name: results for reward in rewards.values() for name, results in (reward.get("comparisons") or {}).items()}
    if sets:
        name, results = next(iter(sets.items()))
        found = {reward: lookup(figures, ("comparisons", name, "accuracy")) for reward, figures in rewards.items()}
        bars = [Bar(reward, percent(value)) for reward, value in found.items() if value is not None]
        yield Tile(
            "Accuracy of rewards", f"On {results['pairs']:,} held-out comparisons of “{name}”; chance is 50%.", bars
        )
