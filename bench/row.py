"""A row of the benchmark table: the figures of both sides, the ratio of their rates, and the required ratio."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

Figures = dict[str, float]
"""name -> value, measured by one side in one process"""


@dataclass(frozen=True)
class Row:
    name: str
    beside: str
    """description of the other side"""
    rate: str
    """name of the figure that is compared; higher is better"""
    ours: Figures
    """medians over the rounds"""
    theirs: Figures
    ratios: list[float]
    """ours / theirs of each round"""
    bar: float
    """required median ratio"""

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def met(self) -> bool:
        return self.ratio >= self.bar

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def compare(name: str, beside: str, rate: str, ours: Sequence[Figures], theirs: Sequence[Figures], bar: float) -> Row:
    """Return the row of two sides; `ours[i]` and `theirs[i]` are figures of the same round."""
    ratios = [one[rate] / other[rate] for one, other in zip(ours, theirs, strict=True)]
    return Row(name, beside, rate, _medians(ours), _medians(theirs), ratios, bar)


def table(rows: Iterable[Row]) -> Table:
    """Return a table of all rows; each further figure, such as `peak_mib`, has a line of its own."""
    shown = Table(title="medians over the rounds; in brackets the smallest and largest ratio", title_justify="left")
    shown.add_column("")
    for title in ("ours", "theirs", "ratio", "bar"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        ratio = f"{row.ratio:.2f} ({min(row.ratios):.2f}..{max(row.ratios):.2f})"
        bar = f"{row.bar:g} {'met' if row.met else 'NOT MET'}"
        shown.add_row(f"{row.name}: {_words(row.rate)}", *_pair(row, row.rate), ratio, bar)
        for name in row.ours.keys() - {row.rate}:
            shown.add_row(f"  {_words(name)}", *_pair(row, name), f"{row.ours[name] / row.theirs[name]:.2f}", "")
        shown.add_row(f"  compared with {row.beside}", "", "", "", "", end_section=True)
    return shown


def _words(name: str) -> str:
    return name.replace("_", " ")


def _pair(row: Row, name: str) -> tuple[str, str]:
    return f"{row.ours[name]:,.0f}", f"{row.theirs[name]:,.0f}"


def _medians(rounds: Sequence[Figures]) -> Figures:
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}
