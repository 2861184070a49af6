"""Progress of reading a source: a live line on a terminal, an occasional line in a log."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Time between lines if the output is not a terminal; shorter work prints none.
LOG_EVERY_SECONDS = 10.0


class ReadProgress:
    """Show how much of a source has been read. `size` is in the units of `advance`: bytes or rows."""

    def __init__(self, name: str, size: int) -> None:
        self.name, self.size, self.done = name, size, 0
        self._began = self._printed_at = time.monotonic()
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

    def __enter__(self) -> "ReadProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, more: int) -> None:
        self.done += more

    def show(self, records: int) -> None:
        """Update the display with the number of records processed."""
        self._bar.update(self._task, completed=self.done, records=records)
        if not self._live and time.monotonic() - self._printed_at > LOG_EVERY_SECONDS:
            print(f"{self.name}: {records:,} records, {100 * self.done / max(self.size, 1):.0f} %", flush=True)
            self._printed_at = time.monotonic()

    @property
    def seconds_left(self) -> float:
        """Estimated seconds for the rest, at the speed so far."""
        spent = time.monotonic() - self._began
        return spent * max(self.size - self.done, 0) / max(self.done, 1)
