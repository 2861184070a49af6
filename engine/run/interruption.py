"""SIGTERM, SIGINT and `run.max_hours`: the run finishes its current step, saves it and leaves.

The exit code is 128 + the signal's number, or 75 when the time is used up. Under a launcher it is then 0, and the
launch itself ends with 75 (engine/run/launch.py). A second signal leaves at once; the run then resumes from the
checkpoint before, as after any kill.
"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from accelerate import Accelerator

from engine.dist.ranks import leave_group
from engine.run.time_limit import OUT_OF_TIME, TimeLimit, under_launcher

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within it the first of the signals is noted, not obeyed. It must be entered in the main thread."""

    def __init__(self, accelerator: Accelerator, limit: TimeLimit):
        self.accelerator, self.limit = accelerator, limit
        self._signal = 0

    def __enter__(self) -> "Interruption":
        self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            sys.exit(128 + number)
        self._signal = number
        if self.accelerator.is_main_process:
            name = signal.Signals(number).name
            print(f"{name}: finishing this step and saving; once more leaves at once", file=sys.stderr, flush=True)

    def code(self) -> int:
        """Return the exit code that the run has to leave with, 0 to continue; the same on every rank (collective).

        A signal counts whichever rank received it. The time is that of rank 0.
        """
        out_of_time = self.accelerator.is_main_process and self.limit.reached
        own = 128 + self._signal if self._signal else OUT_OF_TIME if out_of_time else 0
        if self.accelerator.num_processes == 1:
            return own
        return int(self.accelerator.gather(torch.tensor([own], device=self.accelerator.device)).max())

    def leave(self, saved: Path, code: int) -> NoReturn:
        """End the run after it has `saved` a checkpoint (collective); raises SystemExit."""
        why = f"run.max_hours={self.limit.hours:g} is nearly over; " if code == OUT_OF_TIME else ""
        self.accelerator.print(
            f"{saved.parent}: {why}saved {saved.name}; the same command continues from there", flush=True
        )
        leave_group(self.accelerator)
        sys.exit(0 if code == OUT_OF_TIME and under_launcher() else code)
