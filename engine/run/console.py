"""What a person sees while a stage runs: one live line on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Seconds between lines where there is no terminal to draw on.
QUIET = 10.0
# Lines of a table under one head.
PAGE = 20


class Steps:
    """Progress of a stage over a known number of steps, with its latest figures; only one process `speaks`."""

    def __init__(self, stage: str, total: int, at: int = 0, *, speaks: bool = True):
        self.stage, self.total, self.speaks = stage, total, speaks
        self.live = speaks and sys.stderr.isatty()
        self._spoke = time.monotonic()
        self._rows = 0
        self._bar = Progress(
            TextColumn("[bold]{task.description:5}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            disable=not self.live,
        )
        self._task = self._bar.add_task(stage, total=total, completed=at, figures="")

    def start(self) -> None:
        self._bar.start()

    def stop(self) -> None:
        self._bar.stop()

    def show(self, at: int, figures: dict[str, float] | None = None) -> None:
        """Move to step `at`; `figures` are a few numbers worth watching."""
        self._bar.update(self._task, completed=at)
        if not figures:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._bar.update(self._task, figures=text)
        if self.speaks and not self.live and (time.monotonic() - self._spoke > QUIET or at >= self.total):
            print(f"{self.stage} {at}/{self.total}  {text}", flush=True)
            self._spoke = time.monotonic()

    def row(self, at: int, figures: dict[str, float]) -> None:
        """Move to step `at` and write a line of a table, a column a figure: every step, or now and then in a log."""
        self._bar.update(self._task, completed=at)
        if not self.speaks or not (self.live or time.monotonic() - self._spoke > QUIET or at >= self.total):
            return
        heads = [name.replace("_seconds", " s").replace("_", " ") for name in figures]
        widths = [max(len(head), 9) for head in heads]
        if self._rows % PAGE == 0:
            self.say(aligned([self.stage, *heads], [12, *widths]))
        self.say(aligned([f"{at}/{self.total}", *(f"{value:.4g}" for value in figures.values())], [12, *widths]))
        self._rows += 1
        self._spoke = time.monotonic()

    def say(self, text: str) -> None:
        """Some text: above the live line on a terminal, else on standard output."""
        if self.live:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self.speaks:
            print(text, flush=True)


def aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A line of a table, its cells at the right of their columns."""
    return " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
