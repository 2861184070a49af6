"""The tables that close an evaluation's run: all subjects side by side, at the width of the terminal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from eval.comparisons import warnings
from eval.figures import MISSING, Figure, Summary, figures, lookup, main_figure, others, percent, turns, win_rate

Row = Sequence[str]
# Characters after which a name is broken into a further line.
NAME_WIDTH = 24


def closing_table(summary: Summary) -> RenderableType:
    """What is printed at the end: figures, differences from the reference, tasks, and the rewards' accuracy."""
    return ClosingTable(summary)


@dataclass(frozen=True)
class ClosingTable:
    """Laid out when it is printed, since the layout depends on the console's width."""

    summary: Summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        for grid in grids(self.summary):
            yield from grid.tables(options.max_width)
        yield from map(Text, reasons(self.summary))
        yield from map(Text, warnings(self.summary.get("rewards", {})))


@dataclass(frozen=True)
class Grid:
    """Text cells with headings: one table where that fits, else with rows and columns exchanged, else in parts."""

    title: str
    headings: Row
    rows: Sequence[Row]
    may_turn: bool = False
    """whether rows and columns may be exchanged"""

    def tables(self, width: int) -> Iterator[RenderableType]:
        """The title, then tables of at most `width` characters; in each of several the first column is repeated."""
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
        """Characters of the table of these columns: two of padding and a line to each, and a line at the end."""
        return 1 + sum(3 + self._column_width(column) for column in (0, *columns))

    def _column_width(self, column: int) -> int:
        """Cells are never broken, but the names in the first column; headings are broken between words."""
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
    """Everything that is printed, in order; what the summary does not hold is left out."""
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
    counts = [lookup(of, ("answers", "items")) for of in summary["subjects"].values()]
    if items := max((count for count in counts if count), default=None):
        return f"{items:,} held-out items"
    counts = [lookup(of, ("system_prompt", "conversations")) for of in summary["subjects"].values()]
    conversations = max((count for count in counts if count), default=None)
    return f"{conversations:,} held-out conversations" if conversations else "text"


def _value(figure: Figure, summary: Summary, subject: str) -> str:
    value = figure.value(summary, subject)
    if value is not None:
        return figure.show(value)
    return MISSING if figure.why(summary, subject) else ""


def reasons(summary: Summary) -> Iterator[str]:
    """Why a subject lacks figures that another one has, a line for each subject and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for figure in figures(summary):
        for name in summary["subjects"]:
            others_have_it = any(figure.value(summary, other) is not None for other in summary["subjects"])
            if others_have_it and (why := figure.why(summary, name)):
                found.setdefault((name, why), []).append(figure.label)
    for (name, why), labels in found.items():
        yield f"{MISSING} {name} has no {', '.join(labels)}: {why}"


def _differences(summary: Summary, shown: Sequence[Figure]) -> Iterator[Grid]:
    """A row a subject: its differences from the reference in the figures that are better one way, and its win rate."""
    names = others(summary)
    judged = [f for f in shown if f.better and any(f.difference(summary, name) for name in names)]
    wins = {name: win_rate(summary, name) for name in names}
    columns = {f.label: [_difference(f, f.difference(summary, name)) for name in names] for f in judged}
    if any(wins.values()):
        by = next(f" by {win['by']}" if "by" in win else "" for win in wins.values() if win)
        columns = {f"wins{by}": [_win_rate(wins[name]) for name in names], **columns}
    if columns:
        title = f"against {summary['reference']}, 95% intervals; shares in points"
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
    """The main figure of every task, a column a subject."""
    figure, subjects = main_figure(summary), summary.get("subjects", {})
    tasks = {name: lookup(of, ("answers", "tasks")) or {} for name, of in subjects.items()}
    names = list(dict.fromkeys(task for of in tasks.values() for task in of))
    if figure is None or not names:
        return
    rows = []
    for task in names:
        values = [tasks[name].get(task, {}).get(figure.metric) for name in subjects]
        items = max((tasks[name].get(task, {}).get("items") or 0 for name in subjects), default=0)
        rows.append([task, f"{items:,}", *("" if value is None else figure.show(value) for value in values)])
    yield Grid(f"{figure.label} by task", ["", "items", *subjects], rows)


def _turns(summary: Summary) -> Iterator[Grid]:
    """How often the instruction is obeyed at each turn, a column a subject."""
    shares = turns(summary)
    if shares:
        rows = [[str(number), *map(_share, each.values())] for number, each in enumerate(shares, start=1)]
        yield Grid("instruction obeyed, turn by turn", ["turn", *summary["subjects"]], rows)


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)


def _rewards(rewards: dict[str, Any]) -> Iterator[Grid]:
    """How often each reward is right, a row a reward and a column a set of comparisons; then by subset."""
    sets = {name: of for reward in rewards.values() for name, of in (reward.get("comparisons") or {}).items()}
    if not sets:
        return
    headings = ["", *(f"{name} ({of['pairs']:,})" for name, of in sets.items())]
    rows = [
        [reward, *(_accuracy(lookup(of, ("comparisons", name)), ece=True) for name in sets)]
        for reward, of in rewards.items()
    ]
    yield Grid("right on comparisons, half the width of 95%, ECE", headings, rows)
    for name, of in sets.items():
        if subsets := of.get("subsets"):
            paths = [("comparisons", name, "subsets", subset) for subset in subsets]
            rows = [
                [path[-1], f"{subsets[path[-1]]['pairs']:,}", *(_accuracy(lookup(r, path)) for r in rewards.values())]
                for path in paths
            ]
            yield Grid(f"right on {name}, by subset", ["", "pairs", *rewards], rows)


def _accuracy(figures: dict[str, Any] | None, *, ece: bool = False) -> str:
    if not figures:
        return ""
    low, high = figures["accuracy_ci95"]
    error = f", {figures['ece']:.2f}" if ece else ""
    return f"{100 * figures['accuracy']:.1f}% ± {50 * (high - low):.1f}{error}"
