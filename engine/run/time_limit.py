"""The time that a run is given (`run.max_hours`), and when it has to save so as to have left by then.

It counts from the start of the launcher where there is one, else of this process: what loads models and data takes
time as well, and a process that was started again has less of it left.
"""

import math
import os
import time

import psutil

# sysexits' EX_TEMPFAIL, "try again": neither success, after which a chain of commands would begin its next stage, nor
# one of our mistakes (2).
OUT_OF_TIME = 75
# Share of the limit that the first checkpoint is taken to need, until one has been measured.
UNKNOWN = 0.1
# Seconds to end all processes.
LEAVING = 10.0


def under_launcher() -> bool:
    """Whether a launcher watches this process; it takes every exit code but 0 for a failure, and may start it again."""
    return "TORCHELASTIC_RUN_ID" in os.environ


class TimeLimit:
    """Measures laps by name, and is `reached` once what is left is less than the longest of each, one after another."""

    def __init__(self, max_hours: float | None):
        self.hours, self.ends = max_hours, math.inf
        if max_hours is not None:
            began = psutil.Process(os.getppid() if under_launcher() else os.getpid()).create_time()
            self.ends = began + 3600 * max_hours
        self._longest: dict[str, float] = {}

    def begin(self) -> None:
        """The first lap begins."""
        self._lap_began = time.time()

    def lap(self, name: str) -> None:
        """What has passed since the lap before was one of `name`."""
        now = time.time()
        self.took(name, now - self._lap_began)
        self._lap_began = now

    def took(self, name: str, seconds: float) -> None:
        self._longest[name] = max(self._longest.get(name, 0.0), seconds)

    @property
    def reached(self) -> bool:
        """Whether another step, with the checkpoint after it, might go beyond the limit."""
        if self.hours is None:
            return False
        margin = {"save": UNKNOWN * 3600 * self.hours} | self._longest
        return time.time() + sum(margin.values()) + LEAVING > self.ends
