"""A row of the benchmark: what each side did with the same work, the ratio of their rates, and the bar for it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.table import Table

Figures = dict[str, float]
"""What one side measured in one process, by name."""


@dataclass(frozen=True)
class Row:
    name: str
    beside: str
    """what the other side is"""
    rate: str
    """the figure that is compared: more of it is better"""
    ours: Figures
    """medians over the rounds"""
    theirs: Figures
    ratios: list[float]
    """ours / theirs in every round"""
    bar: float
    """what the median ratio has to reach"""

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def met(self) -> bool:
        return self.ratio >= self.bar

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def compare(name: str, beside: str, rate: str, ours: Sequence[Figures], theirs: Sequence[Figures], bar: float) -> Row:
    """The row of two sides that ran in turn: `ours[i]` and `theirs[i]` are of the same round."""
    ratios = [one[rate] / other[rate] for one, other in zip(ours, theirs, strict=True)]
    return Row(name, beside, rate, _medians(ours), _medians(theirs), ratios, bar)


def table(rows: Iterable[Row]) -> Table:
    """All rows; a figure besides the rate (`peak_mib`, say) stands on a line of its own."""
    shown = Table(title="medians over the rounds; in brackets the least and the greatest ratio", title_justify="left")
    shown.add_column("")
    for title in ("ours", "theirs", "ratio", "bar"):
        shown.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        ratio = f"{row.ratio:.2f} ({min(row.ratios):.2f}..{max(row.ratios):.2f})"
        bar = f"{row.bar:g} {'met' if row.met else 'NOT MET'}"
        shown.add_row(f"{row.name}: {_words(row.rate)}", *_pair(row, row.rate), ratio, bar)
        for name in row.ours.keys() - {row.rate}:
            shown.add_row(f"  {_words(name)}", *_pair(row, name), f"{row.ours[name] / row.theirs[name]:.2f}", "")
        shown.add_row(f"  beside {row.beside}", "", "", "", "", end_section=True)
    return shown


def _words(name: str) -> str:
    return name.replace("_", " ")


def _pair(row: Row, name: str) -> tuple[str, str]:
    return f"{row.ours[name]:,.0f}", f"{row.theirs[name]:,.0f}"


def _medians(rounds: Sequence[Figures]) -> Figures:
    return {name: median(figures[name] for figures in rounds) for name in rounds[0]}
