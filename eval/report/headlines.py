"""The top of the report: a verdict in words for each subject, and tiles with the main figures."""

from collections.abc import Collection, Iterator, Mapping
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
    reward_of,
    win_rates,
    win_tone,
)

Difference = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """A figure's difference from the reference, as text."""

    label: str
    mean: str
    """difference with its sign; of a win rate the rate itself"""
    interval: str
    """95 % interval and number of items"""
    tone: Tone
    caution: str = ""
    """why the figure is weak evidence"""


@dataclass(frozen=True)
class Verdict:
    """Changes from the reference to one subject."""

    subject: str
    changes: list[Change] = field(default_factory=list)
    """of every figure with a better direction, in the table's order"""
    others: list[str] = field(default_factory=list)
    """KL to the reference and difference in length: neither good nor bad by themselves"""
    remark: str = ""
    """caution for the reader"""

    def of(self, tone: Tone) -> list[Change]:
        return [change for change in self.changes if change.tone == tone]


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


def verdicts(summary: Summary, trained_with: Mapping[str, Collection[str]] | None = None) -> list[Verdict]:
    """Return a verdict for every subject except the reference.

    `trained_with` has the names of the rewards that a subject was trained with, or picked by.
    """
    return [_verdict(summary, name, (trained_with or {}).get(name, ())) for name in compared_subjects(summary)]


def _verdict(summary: Summary, subject: str, trained_with: Collection[str]) -> Verdict:
    wins = win_rates(summary, subject)
    changes = [_win(by, win, summary["reference"], trained_with) for by, win in wins.items()]
    for figure in figures(summary):
        difference, reward = figure.difference(summary, subject), reward_of(figure, summary)
        # Where gold is known, a reward's score is not evidence of quality.
        if figure.better and difference and not (reward and "gold" in wins):
            changes.append(_change(figure, difference, _caution(reward, trained_with)))
    return Verdict(subject, changes, list(_others(summary, subject)), _remark(summary, subject, trained_with))


def _change(figure: Figure, difference: Difference, caution: str = "") -> Change:
    mean, low, high = (figure.show_difference(value) for value in (difference["mean"], *difference["ci95"]))
    unit = " points" if figure.is_share else ""
    tone = figure.tone(difference)
    return Change(figure.label, f"{mean}{unit}", f"{low} to {high}, n {difference['n']:,}", tone, caution)


def _win(by: str, win: Difference, reference: str, trained_with: Collection[str]) -> Change:
    mean, low, high = (percent(value) for value in (win["mean"], *win["ci95"]))
    label, interval = f"preferred to {reference} by {by}", f"{low} to {high}, n {win['n']:,}"
    return Change(label, mean, interval, win_tone(win), _caution(by, trained_with))


def _caution(reward: str | None, trained_with: Collection[str]) -> str:
    return "weak evidence: trained with it, or picked by it" if reward in trained_with else ""


def _others(summary: Summary, subject: str) -> Iterator[str]:
    answers = summary["subjects"][subject].get("answers") or {}
    if (kl := answers.get("kl_to_reference")) is not None:
        yield f"KL to {summary['reference']}: {kl:.2f} nats per answer"
    for figure in figures(summary):
        if figure.path == ("answers", "tokens") and (difference := figure.difference(summary, subject)):
            change = _change(figure, difference)
            yield f"{change.label} {change.mean} ({change.interval})"


def _remark(summary: Summary, subject: str, trained_with: Collection[str]) -> str:
    tones = _score_tones(summary, subject)
    gold = tones.pop("gold", "")
    risen = [name for name, tone in tones.items() if tone == "better" and (gold or name in trained_with)]
    fallen = [name for name, tone in tones.items() if tone == "worse" and name not in trained_with]
    if risen and (gold == "worse" or (fallen and not gold)):
        lower = "gold" if gold else f"the score by {fallen[0]}"
        return f"The score by {risen[0]} rose while {lower} fell: a sign of reward hacking."
    return ""


def _score_tones(summary: Summary, subject: str) -> dict[str, Tone]:
    """Return {gold or a reward: tone of the difference in its score}."""
    tones: dict[str, Tone] = {}
    for figure in figures(summary):
        name = "gold" if figure.path == ("answers", "gold") else reward_of(figure, summary)
        if name and (difference := figure.difference(summary, subject)):
            tones[name] = figure.tone(difference)
    return tones


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
    wins = {name: win_rates(summary, name) for name in compared_subjects(summary)}
    for by in dict.fromkeys(by for rates in wins.values() for by in rates):
        bars = [
            Bar(name, percent(rates[by]["mean"]), win_tone(rates[by])) for name, rates in wins.items() if by in rates
        ]
        meaning = "Share of items with the better answer; ties count half. 50% is a draw."
        yield Tile(f"Preferred to {reference} by {by}", meaning, bars)
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
