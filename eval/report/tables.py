"""The tables of the page: cells with a value, the difference from the reference, and the reason for an empty one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eval.figures import (
    MISSING,
    Figure,
    Summary,
    Tone,
    figures,
    lookup,
    main_figure,
    others,
    percent,
    turns,
    win_rate,
    win_tone,
)


@dataclass(frozen=True)
class Cell:
    value: str = ""
    difference: str = ""
    """from the reference, with its sign"""
    interval: str = ""
    """95 %, and over how many items"""
    tone: Tone = ""
    note: int = 0
    """number of the footnote that says why there is no value; 0: none"""
    why: str = ""


@dataclass(frozen=True)
class Line:
    label: str
    meaning: str
    cells: dict[str, Cell]
    """by subject, in the table's order"""


@dataclass(frozen=True)
class Grid:
    """A table with a column for each subject (or reward) and footnotes."""

    columns: list[str]
    lines: list[Line]
    notes: list[str]


def figure_grid(summary: Summary) -> Grid:
    """Every figure of every subject; the win rate stands below what it is by."""
    notes: list[str] = []
    lines: list[Line] = []
    wins = win_line(summary)
    main = main_figure(summary)
    for figure in figures(summary):
        cells = {name: _cell(figure, summary, name, notes) for name in summary["subjects"]}
        lines.append(Line(figure.label, figure.meaning, cells))
        if wins and figure == main:
            lines.append(wins)
    if wins and wins not in lines:
        lines.insert(0, wins)
    return Grid(list(summary.get("subjects", {})), lines, notes)


def _cell(figure: Figure, summary: Summary, subject: str, notes: list[str]) -> Cell:
    """A value with its difference from the reference; reasons for what is missing are added to `notes`."""
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
    """The footnote's number, from 1; each reason has one. 0 without a reason."""
    if why and why not in notes:
        notes.append(why)
    return notes.index(why) + 1 if why else 0


def _difference(figure: Figure, of: dict[str, Any]) -> tuple[str, str, Tone]:
    """The mean, the interval with n, and the tone."""
    mean, low, high = (figure.show_difference(number) for number in (of["mean"], *of["ci95"]))
    return mean, f"{low} to {high}, n {of['n']:,}", figure.tone(of)


def win_line(summary: Summary) -> Line | None:
    """The share of items on which each subject's answer beats the reference's; None where nothing was compared."""
    wins = {name: win_rate(summary, name) for name in others(summary)}
    by = next((win.get("by") for win in wins.values() if win), None)
    if not any(wins.values()):
        return None
    cells = {name: _win_cell(wins.get(name)) for name in summary["subjects"]}
    meaning = f"share of items where its answer is better{f' by {by}' if by else ''}; ties count half"
    return Line(f"preferred to {summary['reference']}", meaning, cells)


def _win_cell(win: dict[str, Any] | None) -> Cell:
    if not win:
        return Cell()
    low, high = (percent(value) for value in win["ci95"])
    return Cell(percent(win["mean"]), interval=f"{low} to {high}, n {win['n']:,}", tone=win_tone(win))


def task_grids(summary: Summary) -> Iterator[tuple[Figure, Grid]]:
    """For the main figure and right answers: a line a task, a column a subject."""
    subjects = summary.get("subjects", {})
    tasks = {name: lookup(of, ("answers", "tasks")) or {} for name, of in subjects.items()}
    names = list(dict.fromkeys(task for of in tasks.values() for task in of))
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
    """How often the system turn is obeyed: a line a turn, a column a subject."""
    lines = [
        Line(str(number), "", {name: Cell("" if share is None else percent(share)) for name, share in each.items()})
        for number, each in enumerate(turns(summary), start=1)
    ]
    return Grid(list(summary.get("subjects", {})), lines, [])


@dataclass(frozen=True)
class Accuracy:
    """A reward on one set of held-out comparisons."""

    reward: str
    comparisons: str
    figures: dict[str, Any]


def accuracies(summary: Summary) -> Iterator[Accuracy]:
    """What is known of each reward on each set of comparisons."""
    for reward, of in summary.get("rewards", {}).items():
        for name, found in (of.get("comparisons") or {}).items():
            yield Accuracy(reward, name, found)


def subset_grids(summary: Summary) -> Iterator[tuple[str, Grid]]:
    """For each set of comparisons with subsets: a line a subset, a column a reward, with 95 % intervals."""
    rewards = summary.get("rewards", {})
    for name in dict.fromkeys(row.comparisons for row in accuracies(summary)):
        found = {reward: lookup(of, ("comparisons", name, "subsets")) or {} for reward, of in rewards.items()}
        subsets = {subset: of["pairs"] for part in found.values() for subset, of in part.items()}
        lines = [
            Line(subset, f"{pairs:,} pairs", {reward: _share_cell(part.get(subset)) for reward, part in found.items()})
            for subset, pairs in subsets.items()
        ]
        if lines:
            yield name, Grid(list(rewards), lines, [])


def _share_cell(of: dict[str, Any] | None) -> Cell:
    if not of:
        return Cell()
    low, high = (f"{100 * end:.1f}" for end in of["accuracy_ci95"])
    return Cell(f"{100 * of['accuracy']:.1f}%", interval=f"{low} to {high}%")


def pair_grid(summary: Summary) -> Grid:
    """Differences of every other pair of subjects, a line a pair; a column for each figure that is better one way."""
    pairs = summary.get("pairs", {})
    judged = [f for f in figures(summary) if f.better and any(f.difference_in(of) for of in pairs.values())]
    lines = []
    for pair, of in pairs.items():
        first, _, second = pair.partition("|")
        cells = {figure.label: _pair_cell(figure, figure.difference_in(of)) for figure in judged}
        lines.append(Line(f"{second} − {first}", "", cells))
    return Grid([figure.label for figure in judged], lines, [])


def _pair_cell(figure: Figure, difference: dict[str, Any] | None) -> Cell:
    if difference is None:
        return Cell()
    mean, interval, tone = _difference(figure, difference)
    return Cell(mean, interval=interval, tone=tone)
