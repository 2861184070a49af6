"""A summary in words: a sentence for each subject, and the few figures to look at first with what they mean."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.figures import Figure, Summary, Tone, figures, lookup, main_figure, others, percent, win_rate, win_tone

Difference = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What changed from the reference to one subject."""

    subject: str
    better: list[str] = field(default_factory=list)
    worse: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    """changes that may be chance, by name alone"""
    distance: str = ""
    """how far it has moved, in nats"""
    remark: str = ""
    """what to keep in mind of it"""


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
    """One for every subject but the reference; `optimised` are those trained or chosen by the reward that scores."""
    return [_verdict(summary, name, name in optimised) for name in others(summary)]


def _verdict(summary: Summary, subject: str, optimised: bool) -> Verdict:
    main, judged = main_figure(summary), list(_judged(summary, subject))
    sides: dict[Tone, list[str]] = {"better": [], "worse": [], "": []}
    for figure, difference in judged:
        # The reward's score is no evidence where gold is known.
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
        distance="" if kl is None else f"KL {kl:.2f} nats an answer from {summary['reference']}",
        remark=_remark(summary, judged, main, optimised),
    )


def _judged(summary: Summary, subject: str) -> Iterator[tuple[Figure, Difference]]:
    """The figures that are better one way, with the subject's difference in them."""
    for figure in figures(summary):
        difference = figure.difference(summary, subject)
        if figure.better and difference:
            yield figure, difference


def _change(figure: Figure, difference: Difference) -> str:
    mean, low, high = (figure.show_difference(value) for value in (difference["mean"], *difference["ci95"]))
    unit = " points" if figure.is_share else ""
    label = f"perplexity of {figure.metric}, in bits a byte," if figure.path[0] == "perplexity" else figure.label
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
            return "The reward's score is what it was trained or chosen by, so a higher one proves little."
        return "There is no gold scorer: this is as good as the reward that gives the score."
    if tones.get("score") == "better" and tones.get("gold") == "worse":
        return "The reward's score rose while gold fell: the reward is being fooled."
    return ""


def tiles(summary: Summary) -> Iterator[Tile]:
    """The figures to look at first, of those that there are, for every subject."""
    shown, reference = {figure.path: figure for figure in figures(summary)}, summary.get("reference")
    main = main_figure(summary)
    if main is not None:
        meaning = (
            "How good the answers are, by a scorer that training never sees."
            if main.metric == "gold"
            else "By the reward alone: there is no gold scorer."
        )
        yield _tile(summary, main, meaning)
    if wins := list(_win_bars(summary)):
        yield Tile(
            f"Preferred to {reference}", "Share of items with the better answer; ties count half. 50% is even.", wins
        )
    for path, meaning in (
        (("answers", "accuracy"), "Manner must not be bought with mistakes: this should not fall."),
        (("answers", "kl_to_reference"), f"Nats an answer: how far a subject has moved from {reference}."),
    ):
        if path in shown:
            yield _tile(summary, shown[path], meaning)
    if figure := next((figure for path, figure in shown.items() if path[0] == "perplexity"), None):
        bits = shown.get(("perplexity", "bits_per_byte", figure.metric))
        forgotten = f"; above {reference}'s, something was forgotten" if others(summary) else ""
        yield _tile(summary, figure, f"Of held-out text{forgotten}.", bits)
    yield from _reward_tiles(summary.get("rewards", {}))


def _tile(summary: Summary, figure: Figure, meaning: str, compared: Figure | None = None) -> Tile:
    """Values of one figure, coloured by the differences in it, or in the figure that it is `compared` by."""
    judge, bars = compared or figure, []
    for subject in summary["subjects"]:
        value, difference = figure.value(summary, subject), judge.difference(summary, subject)
        if value is not None:
            bars.append(Bar(subject, figure.show(value), judge.tone(difference) if difference else ""))
    return Tile(figure.label[0].upper() + figure.label[1:], meaning, bars)


def _win_bars(summary: Summary) -> Iterator[Bar]:
    for subject in others(summary):
        win = win_rate(summary, subject)
        if win:
            yield Bar(subject, percent(win["mean"]), win_tone(win))


def _reward_tiles(rewards: dict[str, Any]) -> Iterator[Tile]:
    """How often each reward ranks two answers right, on the first set of comparisons."""
    sets = {name: of for reward in rewards.values() for name, of in (reward.get("comparisons") or {}).items()}
    if sets:
        name, of = next(iter(sets.items()))
        found = {reward: lookup(figures, ("comparisons", name, "accuracy")) for reward, figures in rewards.items()}
        bars = [Bar(reward, percent(value)) for reward, value in found.items() if value is not None]
        yield Tile("Rewards right", f"Of {of['pairs']:,} held-out comparisons of “{name}”; a coin gets 50%.", bars)
