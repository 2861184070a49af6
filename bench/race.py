"""Run the sides of a comparison alternately, each time in a new process.

A side is a function "module:function" that takes JSON values as keyword arguments and returns Figures. The end of its
stderr is shown only if it fails.

    python -m bench.race bench.sft:ours '{"records": "...", ...}'     run one side once
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from bench.row import Figures

Side = tuple[str, dict[str, Any]]
"""(function, its arguments)"""
FIGURES_PREFIX = "figures: "


def race(sides: Mapping[str, Side], rounds: int) -> dict[str, list[Figures]]:
    """Return side -> its figures in each round. Every other round runs the sides in reverse order."""
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[name].append(run_side(*sides[name]))
            print(f"  round {number + 1}, {name}: {_text(found[name][-1])}", flush=True)
    return found


def run_side(
    function: str,
    arguments: dict[str, Any],
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> Figures:
    """Run a side in a new process and return its figures.

    Args:
        function: "module:function".
        arguments: keyword arguments of the function, JSON values.
        python: the interpreter.
        environment: variables to set in addition to those of this process.
        seconds: time limit, after which the process is killed.

    Raises RuntimeError with the end of its stderr if it fails, and subprocess.TimeoutExpired after the time limit.
    """
    command = [python, "-m", "bench.race", function, json.dumps(arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}, timeout=seconds
    )
    marked = [line for line in done.stdout.splitlines() if line.startswith(FIGURES_PREFIX)]
    if done.returncode or not marked:
        killed = f"ended by signal {-done.returncode}" if done.returncode < 0 else ""
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}{killed}")
    return json.loads(marked[-1].removeprefix(FIGURES_PREFIX))


def _text(figures: Figures) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in figures.items())


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    side = getattr(importlib.import_module(module), name)
    print(FIGURES_PREFIX + json.dumps(side(**json.loads(sys.argv[2]))), flush=True)
