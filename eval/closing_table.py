"""The tables printed at the end of an evaluation: all subjects side by side, fitted to the terminal's width."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from eval.comparisons import warnings
from eval.figures import (
    MISSING,
    Figure,
    Summary,
    compared_subjects,
    figures,
    lookup,
    main_figure,
    obeyed_by_turn,
    percent,
    win_rates,
)

Row = Sequence[str]
# Maximum width of a column in characters; longer names are wrapped.
NAME_WIDTH = 24


@dataclass(frozen=True)
class ClosingTable:
    """A summary's tables: figures, differences, tasks, turns, accuracy of rewards.

    The layout is computed when it is printed, because it depends on the console's width.
    """

    summary: Summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for grid in grids(self.summary):
            yield from grid.tables(options.max_width)
        yield from map(Text, reasons(self.summary))
        yield from map(Text, warnings(self.summary.get("rewards", {})))


@dataclass(frozen=True)
class Grid:
    """Text cells with headings. What is too wide for one table is transposed, or split into several tables."""

    title: str
    headings: Row
    rows: Sequence[Row]
    may_turn: bool = False
    """whether the table may be transposed"""

    def tables(self, width: int) -> Iterator[RenderableType]:
        """Yield the title, then one or more tables of at most `width` characters; each repeats the first column."""
        columns = range(1, len(self.headings))
        if self.may_turn and self._width(columns) > width:
            turned = [list(column) for column in zip(self.headings, *self.rows, strict=True)]
            yield from Grid(self.title, turned[0], turned[1:]).tables(width)
            return
        yield Text(self.title, style="italic")
        part: list[int] = []
        for column in columns:
            if part and self._width([*part, column]) > width:
                yield self._table(part)
                part = []
            part.append(column)
        yield self._table(part)

    def _width(self, columns: Sequence[int]) -> int:
        """Return a table's width in characters, with 2 of padding and 1 of border per column and 1 final border."""
        return 1 + sum(3 + self._column_width(column) for column in (0, *columns))

    def _column_width(self, column: int) -> int:
        """Return the width that fits all cells and the longest word of the heading; only long names are wrapped."""
        lines = [line for row in self.rows for line in row[column].splitlines()]
        needed = max((cell_len(text) for text in (*lines, *self.headings[column].split())), default=0)
        return min(needed, NAME_WIDTH)

    def _table(self, columns: Sequence[int]) -> Table:
        table = Table()
        for column in (0, *columns):
            table.add_column(
                Text(self.headings[column]),
                justify="right" if column else "left",
                overflow="fold",
                width=self._column_width(column),
            )
        for row in self.rows:
            table.add_row(*(Text(row[column]) for column in (0, *columns)))
        return table


def grids(summary: Summary) -> Iterator[Grid]:
    """Yield all tables to print, in order. Those that the summary has no data for are left out."""
    subjects, shown = list(summary.get("subjects", {})), figures(summary)
    if shown:
        yield Grid(
            _title(summary),
            ["", *subjects],
            [[figure.label, *(_value(figure, summary, name) for name in subjects)] for figure in shown],
            may_turn=True,
        )
    yield from _differences(summary, shown)
    yield from _tasks(summary)
    yield from _turns(summary)
    yield from _rewards(summary.get("rewards", {}))


def _title(summary: Summary) -> str:
    counts = [lookup(measures, ("answers", "items")) for measures in summary["subjects"].values()]
    if items := max((count for count in counts if count), default=None):
        return f"{items:,} held-out items"
    counts = [lookup(measures, ("system_prompt", "conversations")) for measures in summary["subjects"].values()]
    conversations = max((count for count in counts if count), default=None)
    return f"{conversations:,} held-out conversations" if conversations else "text"


def _value(figure: Figure, summary: Summary, subject: str) -> str:
    value = figure.value(summary, subject)
    if value is not None:
        return figure.show(value)
    return MISSING if figure.why(summary, subject) else ""


def reasons(summary: Summary) -> Iterator[str]:
    """Yield a line per subject and reason: why the subject lacks figures that another subject has."""
    found: dict[tuple[str, str], list[str]] = {}
    for figure in figures(summary):
        for name in summary["subjects"]:
            others_have_it = any(figure.value(summary, other) is not None for other in summary["subjects"])
            if others_have_it and (why := figure.why(summary, name)):
                found.setdefault((name, why), []).append(figure.label)
    for (name, why), labels in found.items():
        yield f"{MISSING} {name} has no {', '.join(labels)}: {why}"


def _differences(summary: Summary, shown: Sequence[Figure]) -> Iterator[Grid]:
    """Yield a table with a row per subject: its win rate, and its differences in figures with a better direction."""
    names = compared_subjects(summary)
    judged = [f for f in shown if f.better and any(f.difference(summary, name) for name in names)]
    wins = {name: win_rates(summary, name) for name in names}
    columns = {f.label: [_difference(f, f.difference(summary, name)) for name in names] for f in judged}
    judges = dict.fromkeys(by for rates in wins.values() for by in rates)
    columns = {f"wins by {by}": [_win_rate(wins[name].get(by)) for name in names] for by in judges} | columns
    if columns:
        title = f"against {summary['reference']}, 95% intervals; shares in percentage points"
        rows = [[name, *(cells[at] for cells in columns.values())] for at, name in enumerate(names)]
        yield Grid(title, ["", *columns], rows)


def _difference(figure: Figure, difference: dict[str, Any] | None) -> str:
    if not difference:
        return ""
    mean, low, high = (figure.show_difference(value) for value in (difference["mean"], *difference["ci95"]))
    return f"{mean}\n{low} to {high}"


def _win_rate(win: dict[str, Any] | None) -> str:
    if not win:
        return ""
    mean, low, high = (percent(value) for value in (win["mean"], *win["ci95"]))
    return f"{mean}\n{low} to {high}"


def _tasks(summary: Summary) -> Iterator[Grid]:
    """Yield a table with the main figure: a row per task and a column per subject."""
    figure, subjects = main_figure(summary), summary.get("subjects", {})
    tasks = {name: lookup(measures, ("answers", "tasks")) or {} for name, measures in subjects.items()}
    names = list(dict.fromkeys(task for by_task in tasks.values() for task in by_task))
    if figure is None or not names:
        return
    rows = []
    for task in names:
        values = [tasks[name].get(task, {}).get(figure.metric) for name in subjects]
        items = max((tasks[name].get(task, {}).get("items") or 0 for name in subjects), default=0)
        rows.append([task, f"{items:,}", *("" if value is None else figure.show(value) for value in values)])
    yield Grid(f"{figure.label} by task", ["", "items", *subjects], rows)


def _turns(summary: Summary) -> Iterator[Grid]:
    """Yield a table with the share of obeying answers: a row per turn and a column per subject."""
    shares = obeyed_by_turn(summary)
    if shares:
        rows = [[str(number), *map(_share, each.values())] for number, each in enumerate(shares, start=1)]
        yield Grid("instruction obeyed by turn", ["turn", *summary["subjects"]], rows)


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)


def _rewards(rewards: dict[str, Any]) -> Iterator[Grid]:
    """Yield a table with the accuracy of each reward on each set of comparisons, then one per set with subsets."""
    sets = {name: results for reward in rewards.values() for name, results in (reward.get("comparisons") or {}).items()}
    if not sets:
        return
    headings = ["", *(f"{name} ({results['pairs']:,})" for name, results in sets.items())]
    rows = [
        [reward, *(_accuracy(lookup(measures, ("comparisons", name)), ece=True) for name in sets)]
        for reward, measures in rewards.items()
    ]
    yield Grid("accuracy on comparisons ± half the 95% interval, ECE", headings, rows)
    for name, results in sets.items():
        if subsets := results.get("subsets"):
            paths = [("comparisons", name, "subsets", subset) for subset in subsets]
            rows = [
                [path[-1], f"{subsets[path[-1]]['pairs']:,}", *(_accuracy(lookup(r, path)) for r in rewards.values())]
                for path in paths
            ]
            yield Grid(f"accuracy on {name} by subset", ["", "pairs", *rewards], rows)


def _accuracy(figures: dict[str, Any] | None, *, ece: bool = False) -> str:
    if not figures:
        return ""
    low, high = figures["accuracy_ci95"]
    error = f", {figures['ece']:.2f}" if ece else ""
    return f"{100 * figures['accuracy']:.1f}% ± {50 * (high - low):.1f}{error}"
