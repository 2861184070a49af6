"""python -m bench [PART ...] [--data FOLDER] [--rounds N]: run benchmarks and write runs/bench/bench.json."""

import argparse
import importlib
import os
import sys
from pathlib import Path

from rich.console import Console

from bench.row import Row, table
from config import RecipeError

# Each part is a module of this package with a function `rows(data, folder, rounds)` that measures and returns its rows.
# `data` is the folder of real data sets; the part writes models and temporary files to `folder`.
PARTS = ("encoding", "sft", "comparisons", "ppo", "sandbox_start")


def main(parts: list[str], data: Path, folder: Path, rounds: int) -> None:
    """Run the parts, print their rows as a table and write them to `folder`/bench.json."""
    from engine.files import durable
    from engine.run.folder import environment

    rows: list[Row] = []
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        print(f"{part}:", flush=True)
        rows += importlib.import_module(f"bench.{part}").rows(data, folder, rounds)
    Console().print(table(rows))
    durable.write_json(folder / "bench.json", {"rows": [row.as_json() for row in rows], "on": environment()})
    print(f"{folder / 'bench.json'}: written")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    data = Path(os.environ.get("PLUMBLINE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data, help="folder of real data sets; default: $PLUMBLINE_DATA")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="folder for models and results")
    parser.add_argument("--rounds", type=int, default=5, help="how many times each side runs")
    arguments = parser.parse_args()
    if unknown := [part for part in arguments.parts if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]}; use {', '.join(PARTS)}")
    try:
        main(arguments.parts or list(PARTS), arguments.data, arguments.folder, arguments.rounds)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
