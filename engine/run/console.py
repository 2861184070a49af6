"""What a person sees while a stage runs: one live line on a terminal, a line now and then in a log."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Seconds between lines where there is no terminal to draw on.
QUIET = 10.0


class Steps:
    """Progress of a stage over a known number of steps, with its latest figures; only one process `speaks`."""

    def __init__(self, stage: str, total: int, at: int = 0, *, speaks: bool = True):
        self.stage, self.total, self.speaks = stage, total, speaks
        self.live = speaks and sys.stderr.isatty()
        self._spoke = time.monotonic()
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
