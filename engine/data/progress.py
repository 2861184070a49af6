"""Progress while records become rows: one live line on a terminal, a line now and then in a log."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Seconds between lines where there is no terminal; shorter work prints none.
LOG_EVERY_SECONDS = 10.0


class Reading:
    """How much of a source has been read; `size` counts bytes or rows."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size, self.done = name, size, 0
        self._began = self._spoke = time.monotonic()
        self._live = sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[records]:,} records"),
            console=Console(stderr=True),
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task(name, total=size, records=0)

    def __enter__(self) -> "Reading":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, more: int) -> None:
        self.done += more

    def show(self, records: int) -> None:
        """Show how many records have become rows."""
        self._bar.update(self._task, completed=self.done, records=records)
        if not self._live and time.monotonic() - self._spoke > LOG_EVERY_SECONDS:
            print(f"{self.name}: {records:,} records, {100 * self.done / max(self.size, 1):.0f} %", flush=True)
            self._spoke = time.monotonic()

    @property
    def seconds_left(self) -> float:
        """Estimated seconds for the rest at the pace so far."""
        spent = time.monotonic() - self._began
        return spent * max(self.size - self.done, 0) / max(self.done, 1)
