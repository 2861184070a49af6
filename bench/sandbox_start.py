"""A sandbox session with numpy, pandas and matplotlib ready and its first block run, compared with a bare Python.

Ours: in one process, a session is started, runs `print(1)` and is closed. The sandbox is started before the first.
Theirs: `python -c "print(1)"`, which has imported nothing.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from bench.race import Side, race
from bench.row import Figures, Row, compare

TITLE, TIMED_RUNS = "sandbox sessions", 20


def rows(data: Path, folder: Path, rounds: int) -> list[Row]:
    sides: dict[str, Side] = {"ours": ("bench.sandbox_start:ours", {}), "python": ("bench.sandbox_start:python", {})}
    found = race(sides, rounds)
    beside = 'python -c "print(1)", without a sandbox and without libraries'
    return [compare(TITLE, beside, "starts_per_second", found["ours"], found["python"], bar=0.2)]


def ours() -> Figures:
    """Start sessions, run a block in each, and close them."""
    from sandbox import MODULES, Sandbox

    with Sandbox() as box:
        if box.modules != MODULES:
            raise RuntimeError(f"of {MODULES} only {box.modules} are installed")

        def start() -> None:
            with box.session() as session:
                result = session.run("print(1)")
            if result.stdout != "1\n":
                raise RuntimeError(f"level {box.level}: {result}")

        return starts_per_second(start)


def python() -> Figures:
    """Start Python."""
    command = [sys.executable, "-c", "print(1)"]
    return starts_per_second(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def starts_per_second(start: Callable[[], object]) -> Figures:
    """Return how often `start` can run in a second, by the median of several runs after a first one."""
    start()
    seconds = []
    for _ in range(TIMED_RUNS):
        began = time.perf_counter()
        start()
        seconds.append(time.perf_counter() - began)
    return {"starts_per_second": 1 / median(seconds)}
