"""The time that a run is given (`run.max_hours`), and when it has to save so as to have left by then.

It counts from the start of the launcher where there is one, else of this process: loading models and data takes time as
well, and a process that was restarted has less of it left.
"""

import math
import os
import time

import psutil

# sysexits' EX_TEMPFAIL, "try again": neither success, after which a chain of commands would start its next stage, nor
# an error of the user's (2).
OUT_OF_TIME = 75
# The time that the first checkpoint is expected to take, as a share of the limit; used until one has been measured.
EXPECTED_SAVE_SHARE = 0.1
# Time that is kept for ending all processes, in seconds.
EXIT_SECONDS = 10.0


def under_launcher() -> bool:
    """Return whether a launcher started this process; it takes every exit code but 0 for a failure and may restart."""
    return "TORCHELASTIC_RUN_ID" in os.environ


class TimeLimit:
    """Measures laps by name; `reached` once the longest lap of each name, one after another, would not fit any more."""

    def __init__(self, max_hours: float | None):
        self.hours = max_hours
        self.ends = math.inf
        if max_hours is not None:
            began = psutil.Process(os.getppid() if under_launcher() else os.getpid()).create_time()
            self.ends = began + 3600 * max_hours
        self._longest: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        """Start the first lap."""
        self._lap_began = time.time()

    def lap(self, name: str) -> None:
        """Count the time since the last lap as one of `name`, and start the next lap."""
        now = time.time()
        self.took(name, now - self._lap_began)
        self._lap_began = now

    def took(self, name: str, seconds: float) -> None:
        """Count a lap of `name` that was measured elsewhere."""
        self._longest[name] = max(self._longest.get(name, 0.0), seconds)

    @property
    def so_far(self) -> float:
        """Seconds of the current lap."""
        return time.time() - self._lap_began

    def longest(self, name: str) -> float | None:
        """Return the seconds of the longest lap of `name`, None before there was one."""
        return self._longest.get(name)

    @property
    def reached(self) -> bool:
        """Whether another step, with the checkpoint after it, might go beyond the limit."""
        if self.hours is None:
            return False
        margin = {"save": EXPECTED_SAVE_SHARE * 3600 * self.hours} | self._longest
        return time.time() + sum(margin.values()) + EXIT_SECONDS > self.ends
