"""Stop a run cleanly on SIGTERM, SIGINT or `run.max_hours`: finish the current step, save it and exit.

The exit code is 128 + the signal's number, or 75 when the time is used up. Under a launcher the latter becomes 0, and
the launcher itself exits with 75 (engine/run/launch.py). A second signal exits immediately; the run then resumes from
the previous checkpoint, as after any kill. If the step takes long, a second line reports what the run is waiting for.

Python handles a signal between two of its own instructions. A signal that arrives during a library call (a backward
pass, a wait for other ranks) takes effect, and its lines are printed, when that call returns. SIGKILL always works,
and loses no more than the steps since the last checkpoint.
"""

import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch
from accelerate import Accelerator

from engine.dist.ranks import leave_group
from engine.run.time_limit import OUT_OF_TIME, TimeLimit, under_launcher

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Time from a signal until a line reports what the run is still waiting for.
PATIENCE_SECONDS = 30.0


class Interruption:
    """Context manager in which the first signal is only recorded, for `code` to report. Enter it in the main thread.

    Args:
        accelerator: identifies the main rank; only that one prints.
        limit: the run's time limit.
        waiting: called in another thread if the step has not ended PATIENCE_SECONDS after a signal; returns one line
            that explains what the run is waiting for and what a second signal does.
    """

    def __init__(self, accelerator: Accelerator, limit: TimeLimit, waiting: Callable[[], str]):
        self.accelerator, self.limit, self.waiting = accelerator, limit, waiting
        self._signal = 0
        self._noted, self._ended = threading.Event(), threading.Event()

    def __enter__(self) -> "Interruption":
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        if self.accelerator.is_main_process:
            self._watcher.start()
        self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._ended.set()
        self._noted.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._signal:
            sys.exit(128 + number)
        self._signal = number
        if self.accelerator.is_main_process:
            self._print("finishing this step and saving; a second signal exits immediately")
        self._noted.set()

    def _watch(self) -> None:
        """Print what the run is waiting for, once, if its step does not end soon after a signal (in its own thread)."""
        self._noted.wait()
        if not self._ended.wait(PATIENCE_SECONDS):
            self._print(self.waiting())

    def _print(self, text: str) -> None:
        print(f"{signal.Signals(self._signal).name}: {text}", file=sys.stderr, flush=True)

    def code(self) -> int:
        """Return the exit code that the run must stop with, 0 to continue; the same on every rank (collective).

        Call it at the end of a step. A signal to any rank stops all; the time limit is checked on rank 0.
        """
        if self._signal:
            self._ended.set()
        out_of_time = self.accelerator.is_main_process and self.limit.reached
        own = 128 + self._signal if self._signal else OUT_OF_TIME if out_of_time else 0
        if self.accelerator.num_processes == 1:
            return own
        return int(self.accelerator.gather(torch.tensor([own], device=self.accelerator.device)).max())

    def leave(self, saved: Path, code: int) -> NoReturn:
        """Exit after the checkpoint `saved` was written (collective). Raises SystemExit."""
        why = f"run.max_hours={self.limit.hours:g} is nearly over; " if code == OUT_OF_TIME else ""
        self.accelerator.print(
            f"{saved.parent}: {why}saved {saved.name}; the same command continues from there", flush=True
        )
        leave_group(self.accelerator)
        sys.exit(0 if code == OUT_OF_TIME and under_launcher() else code)
