"""Console output while a stage runs: a live progress line on a terminal, an occasional line in a log."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Shortest time between lines if the output is not a terminal.
LINE_INTERVAL_SECONDS = 10.0
# Rows of the table between two header lines.
ROWS_PER_HEAD = 20


class Steps:
    """Show the progress of a stage over `total` steps, with its latest metrics. Only the main rank is `enabled`."""

    def __init__(self, stage: str, total: int, at: int = 0, *, enabled: bool = True):
        self.stage = stage
        self.total = total
        self.enabled = enabled
        self.live = enabled and sys.stderr.isatty()
        self._printed_at = time.monotonic()
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
        """Move to step `at` and show a few metrics beside it."""
        self._bar.update(self._task, completed=at)
        if not figures:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._bar.update(self._task, figures=text)
        if self.enabled and not self.live and self._line_is_due(at):
            print(f"{self.stage} {at}/{self.total}  {text}", flush=True)
            self._printed_at = time.monotonic()

    @contextmanager
    def part(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show the progress of other work than steps, such as an evaluation, with the time left.

        Yields a function to call with how much of `total` is done. A log gets an occasional line.
        """
        began, started = time.monotonic(), self._bar.live.is_started
        self._bar.start()
        task = self._bar.add_task(name, total=total, figures="")

        def show(done: int) -> None:
            self._bar.update(task, completed=done)
            now = time.monotonic()
            if self.enabled and not self.live and done and now - self._printed_at > LINE_INTERVAL_SECONDS:
                left = (now - began) * (total - done) / done
                print(f"{self.stage} {name} {done}/{total}  {left:.0f} s left", flush=True)
                self._printed_at = now

        try:
            yield show
        finally:
            self._bar.remove_task(task)
            if not started:
                self._bar.stop()

    def row(self, at: int, figures: Mapping[str, float | str]) -> None:
        """Move to step `at` and print a table row, one column per metric: every step, but only occasionally in a log.

        A value may be a text, for a metric without a number.
        """
        self._bar.update(self._task, completed=at)
        if not self.enabled or not (self.live or self._line_is_due(at)):
            return
        heads = [name.replace("_seconds", " s").replace("_", " ") for name in figures]
        widths = [max(len(head), 10) for head in heads]
        if self._rows % ROWS_PER_HEAD == 0:
            self.say(align_row([self.stage, *heads], [12, *widths]))
        values = [value if isinstance(value, str) else f"{value:.4g}" for value in figures.values()]
        self.say(align_row([f"{at}/{self.total}", *values], [12, *widths]))
        self._rows += 1
        self._printed_at = time.monotonic()

    def _line_is_due(self, at: int) -> bool:
        return time.monotonic() - self._printed_at > LINE_INTERVAL_SECONDS or at >= self.total

    def say(self, text: str) -> None:
        """Print a text: above the live line on a terminal, otherwise on standard output."""
        if self.live:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        elif self.enabled:
            print(text, flush=True)


def align_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return a table row with its cells right-aligned in their columns."""
    return " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
