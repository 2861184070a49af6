"""Tables of the report: cells with a value and its difference from the reference, or the reason why it is missing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eval.figures import (
    MISSING,
    Figure,
    Summary,
    Tone,
    compared_subjects,
    figures,
    lookup,
    main_figure,
    obeyed_by_turn,
    percent,
    win_rates,
    win_tone,
)


@dataclass(frozen=True)
class Cell:
    value: str = ""
    difference: str = ""
    """from the reference, with its sign"""
    interval: str = ""
    """95 % interval and number of items"""
    tone: Tone = ""
    note: int = 0
    """number of the footnote with the reason for a missing value; 0 for none"""
    why: str = ""


@dataclass(frozen=True)
class Line:
    label: str
    meaning: str
    cells: dict[str, Cell]
    """by subject, in the table's order"""


@dataclass(frozen=True)
class Grid:
    """A table with a column per subject (or reward), and its footnotes."""

    columns: list[str]
    lines: list[Line]
    notes: list[str]


def figure_grid(summary: Summary) -> Grid:
    """Return a table of every figure of every subject. The win rate comes below the figure that it is based on."""
    notes: list[str] = []
    lines: list[Line] = []
    wins = list(win_lines(summary))
    main = main_figure(summary)
    for figure in figures(summary):
        cells = {name: _cell(figure, summary, name, notes) for name in summary["subjects"]}
        lines.append(Line(figure.label, figure.meaning, cells))
        if figure == main:
            lines += wins
    if main is None:
        lines = wins + lines
    return Grid(list(summary.get("subjects", {})), lines, notes)


def _cell(figure: Figure, summary: Summary, subject: str, notes: list[str]) -> Cell:
    """Return a value with its difference from the reference. The reason for a missing one is added to `notes`."""
    value = figure.value(summary, subject)
    if value is None:
        why = figure.why(summary, subject)
        return Cell(MISSING if why else "", note=_note(why, notes), why=why)
    difference = figure.difference(summary, subject)
    if difference is None:
        why = figure.why_no_difference(summary, subject)
        return Cell(figure.show(value), MISSING if why else "", note=_note(why, notes), why=why)
    return Cell(figure.show(value), *_difference(figure, difference))


def _note(why: str, notes: list[str]) -> int:
    """Return the number of a reason's footnote, from 1, adding it to `notes` if new; 0 without a reason."""
    if why and why not in notes:
        notes.append(why)
    return notes.index(why) + 1 if why else 0


def _difference(figure: Figure, difference: dict[str, Any]) -> tuple[str, str, Tone]:
    """Return the mean, the interval with n, and the tone of a difference."""
    mean, low, high = (figure.show_difference(number) for number in (difference["mean"], *difference["ci95"]))
    return mean, f"{low} to {high}, n {difference['n']:,}", figure.tone(difference)


def win_lines(summary: Summary) -> Iterator[Line]:
    """Yield the win rates against the reference, a line for gold, or one for each reward."""
    wins = {name: win_rates(summary, name) for name in compared_subjects(summary)}
    for by in dict.fromkeys(by for rates in wins.values() for by in rates):
        cells = {name: _win_cell(wins.get(name, {}).get(by)) for name in summary["subjects"]}
        meaning = f"share of items with the better answer by {by}; ties count half"
        yield Line(f"preferred to {summary['reference']} by {by}", meaning, cells)


def _win_cell(win: dict[str, Any] | None) -> Cell:
    if not win:
        return Cell()
    low, high = (percent(value) for value in win["ci95"])
    return Cell(percent(win["mean"]), interval=f"{low} to {high}, n {win['n']:,}", tone=win_tone(win))


def task_grids(summary: Summary) -> Iterator[tuple[Figure, Grid]]:
    """Yield a table for the main figure and one for right answers, with a line per task and a column per subject."""
    subjects = summary.get("subjects", {})
    tasks = {name: lookup(measures, ("answers", "tasks")) or {} for name, measures in subjects.items()}
    names = list(dict.fromkeys(task for by_task in tasks.values() for task in by_task))
    main = main_figure(summary)
    if main is None or not names:
        return
    accuracy = [figure for figure in figures(summary) if figure.path == ("answers", "accuracy")]
    for figure in (main, *accuracy):
        lines = []
        for task in names:
            values = {name: tasks[name].get(task, {}).get(figure.metric) for name in subjects}
            items = max(tasks[name].get(task, {}).get("items") or 0 for name in subjects)
            cells = {name: Cell("" if value is None else figure.show(value)) for name, value in values.items()}
            lines.append(Line(task, f"{items:,} items", cells))
        yield figure, Grid(list(subjects), lines, [])


def turn_grid(summary: Summary) -> Grid:
    """Return a table of the share of obeying answers, with a line per turn and a column per subject."""
    lines = [
        Line(str(number), "", {name: Cell("" if share is None else percent(share)) for name, share in each.items()})
        for number, each in enumerate(obeyed_by_turn(summary), start=1)
    ]
    return Grid(list(summary.get("subjects", {})), lines, [])


@dataclass(frozen=True)
class Accuracy:
    """A reward on one set of held-out comparisons."""

    reward: str
    comparisons: str
    figures: dict[str, Any]


def accuracies(summary: Summary) -> Iterator[Accuracy]:
    """Yield the figures of each reward on each set of comparisons."""
    for reward, measures in summary.get("rewards", {}).items():
        for name, found in (measures.get("comparisons") or {}).items():
            yield Accuracy(reward, name, found)


def subset_grids(summary: Summary) -> Iterator[tuple[str, Grid]]:
    """Yield, for each set of comparisons with subsets, its name and a table of accuracies with 95 % intervals.

    Tables have a line per subset and a column per reward.
    """
    rewards = summary.get("rewards", {})
    for name in dict.fromkeys(row.comparisons for row in accuracies(summary)):
        found = {
            reward: lookup(measures, ("comparisons", name, "subsets")) or {} for reward, measures in rewards.items()
        }
        subsets = {subset: results["pairs"] for part in found.values() for subset, results in part.items()}
        lines = [
            Line(subset, f"{pairs:,} pairs", {reward: _share_cell(part.get(subset)) for reward, part in found.items()})
            for subset, pairs in subsets.items()
        ]
        if lines:
            yield name, Grid(list(rewards), lines, [])


def _share_cell(results: dict[str, Any] | None) -> Cell:
    if not results:
        return Cell()
    low, high = (f"{100 * end:.1f}" for end in results["accuracy_ci95"])
    return Cell(f"{100 * results['accuracy']:.1f}%", interval=f"{low} to {high}%")


def pair_grid(summary: Summary) -> Grid:
    """Return a table of differences between subjects other than the reference.

    It has a line per pair of subjects, and a column per figure with a better direction.
    """
    pairs = summary.get("pairs", {})
    judged = [f for f in figures(summary) if f.better and any(f.difference_in(compared) for compared in pairs.values())]
    lines = []
    for pair, compared in pairs.items():
        first, _, second = pair.partition("|")
        cells = {figure.label: _pair_cell(figure, figure.difference_in(compared)) for figure in judged}
        lines.append(Line(f"{second} − {first}", "", cells))
    return Grid([figure.label for figure in judged], lines, [])


def _pair_cell(figure: Figure, difference: dict[str, Any] | None) -> Cell:
    if difference is None:
        return Cell()
    mean, interval, tone = _difference(figure, difference)
    return Cell(mean, interval=interval, tone=tone)
