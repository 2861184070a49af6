"""Sides of a comparison in turn, each time in a process of its own.

A side is a function of a module, named "module:function", that takes keyword arguments as JSON has them and returns
Figures. What it prints is shown only if it fails.

    python -m bench.race bench.sft:ours '{"steps": 40}'     one side, once
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
MARK = "figures: "


def race(sides: Mapping[str, Side], rounds: int) -> dict[str, list[Figures]]:
    """The figures of every side in every round; every other round runs them in the opposite order."""
    found: dict[str, list[Figures]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            found[name].append(alone(*sides[name]))
            print(f"  round {number + 1}, {name}: {_text(found[name][-1])}", flush=True)
    return found


def alone(
    function: str,
    arguments: dict[str, Any],
    python: str = sys.executable,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = None,
) -> Figures:
    """What a side returns in a fresh process of `python`, with more environment variables than this one has.

    Raises RuntimeError, with the end of what it said, where it fails, and TimeoutExpired where that takes longer than
    `seconds`: the process is ended then.
    """
    command = [python, "-m", "bench.race", function, json.dumps(arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **(environment or {})}, timeout=seconds
    )
    marked = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not marked:
        killed = f"ended by signal {-done.returncode}" if done.returncode < 0 else ""
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}{killed}")
    return json.loads(marked[-1].removeprefix(MARK))


def _text(figures: Figures) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in figures.items())


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    side = getattr(importlib.import_module(module), name)
    print(MARK + json.dumps(side(**json.loads(sys.argv[2]))), flush=True)
