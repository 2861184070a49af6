"""The time limit of a run (`run.max_hours`), and when the run must save so that it exits before the limit.

The time counts from the start of the launcher, or of this process if there is no launcher: loading models and data
takes time as well, and a restarted process has less time left.
"""

import math
import os
import time

import psutil

# EX_TEMPFAIL of sysexits.h, "try again": neither success, after which a script would start the next stage, nor a user's
# error (2).
OUT_OF_TIME = 75
# Expected duration of a checkpoint as a share of the limit, until one has been measured.
EXPECTED_SAVE_SHARE = 0.1
# Time reserved for ending all processes.
EXIT_SECONDS = 10.0


def under_launcher() -> bool:
    """Return whether a launcher started this process. It treats every exit code but 0 as a failure and may restart."""
    return "TORCHELASTIC_RUN_ID" in os.environ


class TimeLimit:
    """Measure named laps. The limit is `reached` when the longest lap of each name, in sequence, no longer fits."""

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
        """Record the time since the last lap as a lap of `name`, and start the next lap."""
        now = time.time()
        self.took(name, now - self._lap_began)
        self._lap_began = now

    def took(self, name: str, seconds: float) -> None:
        """Record a lap of `name` that was measured elsewhere."""
        self._longest[name] = max(self._longest.get(name, 0.0), seconds)

    @property
    def so_far(self) -> float:
        """Seconds of the current lap."""
        return time.time() - self._lap_began

    def longest(self, name: str) -> float | None:
        """Return the seconds of the longest lap of `name`, None if there was none."""
        return self._longest.get(name)

    @property
    def reached(self) -> bool:
        """Whether another step and its checkpoint might exceed the limit."""
        if self.hours is None:
            return False
        margin = {"save": EXPECTED_SAVE_SHARE * 3600 * self.hours} | self._longest
        return time.time() + sum(margin.values()) + EXIT_SECONDS > self.ends
