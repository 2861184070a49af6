"""SIGTERM, SIGINT and `run.max_hours`: the run finishes its current step, saves it and leaves.

The exit code is 128 + the signal's number, or 75 when the time is used up. Under a launcher it is then 0, and the
launch itself ends with 75 (engine/run/launch.py). A second signal leaves at once; the run then resumes from the
checkpoint before, as after any kill. Where the step takes long, a second line says what the run waits for.

Python handles a signal between two of its own instructions. One that arrives while the main thread is inside one call
of a library (a backward pass, a wait for other ranks) is noticed, and its lines are printed, when that call returns.
SIGKILL never waits, and costs no more than the steps since the last checkpoint.
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
# Seconds after a signal until a line says what the run is still waiting for.
PATIENCE_SECONDS = 30.0


class Interruption:
    """Within it the first of the signals is noted, not obeyed. It must be entered in the main thread.

    Args:
        accelerator: knows the ranks; only the main one prints.
        limit: the time that the run is given.
        waiting: called in another thread when the step has not ended PATIENCE_SECONDS after a signal; returns what the
            run waits for and what a second signal leads to, as one line.
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
            self._say("finishing this step and saving; once more leaves at once")
        self._noted.set()

    def _watch(self) -> None:
        """Say once what the run waits for, if its step does not end soon after a signal; a thread of its own."""
        self._noted.wait()
        if not self._ended.wait(PATIENCE_SECONDS):
            self._say(self.waiting())

    def _say(self, text: str) -> None:
        print(f"{signal.Signals(self._signal).name}: {text}", file=sys.stderr, flush=True)

    def code(self) -> int:
        """Return the exit code that the run has to leave with, 0 to continue; the same on every rank (collective).

        To be called at the end of a step. A signal counts whichever rank received it. The time is that of rank 0.
        """
        if self._signal:
            self._ended.set()
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
