"""python -m bench.tiny_seeds: does `make tiny` align, whatever the seed and the number of threads?

Every run is all stages of the tiny world with one seed and one OMP_NUM_THREADS, in a folder of its own. Finished stages
are skipped and stopped ones resume, so the command may be stopped and given again. Each run is judged by the bars of
bench/tiny_bars.py when it finishes, and all runs together by those of bench/tiny_pooled.py, when docs/tiny_seeds.md is
written. The exit code is 1 where a bar or a stage fails.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.tiny_bars import BARS, Found, Run, read_run, run_bars
from bench.tiny_pooled import Judgement, number
from bench.tiny_seeds_document import document
from config import RecipeError
from engine.files import durable

LOG = "log.txt"


@dataclass(frozen=True)
class Stage:
    package: str
    recipe: str
    """its file, without .yaml"""
    folder: str
    """the run folder, in the folder of the seed and the thread count"""
    changes: tuple[str, ...] = ()
    """keys that differ from the recipe's"""
    beside: bool = False
    """no stage of `make tiny`: once a seed, and its time does not count"""


# Bars are judged here; a gate in the recipe itself would end the run before all of it is measured.
NO_GATE = "eval.require={}"
STAGES = (
    Stage("sft", "base", "base"),
    Stage("sft", "sft", "sft"),
    Stage("reward", "pmp", "pmp"),
    Stage("reward", "rm", "rm"),
    Stage("reward", "harmless", "harmless"),
    Stage("ppo", "ppo", "ppo"),
    Stage("eval", "eval", "eval", (NO_GATE,)),
    Stage("eval", "tasks", "eval-tasks", (NO_GATE,)),
    Stage(
        "reward", "rm", "rm-without-pmp",
        ("run.dir=${oc.env:TINY}/rm-without-pmp", "model.path=${oc.env:TINY}/base/model"), beside=True,
    ),
    Stage(
        "eval", "eval", "eval-pmp",
        (
            "run.dir=${oc.env:TINY}/eval-pmp", "eval.measures=[comparisons]", "eval.reward=rm", NO_GATE,
            'eval.rewards={pmp: "${oc.env:TINY}/pmp/model", rm: "${oc.env:TINY}/rm/model", '
            'without_pmp: "${oc.env:TINY}/rm-without-pmp/model"}',
        ),
        beside=True,
    ),
)  # fmt: skip


def check_recipes(recipes: Path) -> None:
    """Raises RecipeError where the recipe of a stage is not there."""
    for stage in STAGES:
        path = recipes / f"{stage.recipe}.yaml"
        if not path.exists():
            needed = ", ".join(dict.fromkeys(stage.recipe for stage in STAGES))
            raise RecipeError(f"{path} does not exist; --recipes names a folder with a recipe for each of {needed}")


def commands(run: Run, home: Path, recipes: Path, beside: bool) -> Iterator[list[str]]:
    """What `python -m` runs, in order; `beside` with the stages that are not part of `make tiny`."""
    yield ["tiny", f"{home}/world", "--seed", str(run.seed)]
    for stage in STAGES:
        if beside or not stage.beside:
            yield [stage.package, f"{recipes / stage.recipe}.yaml", f"run.seed={run.seed}", *stage.changes]


def finish(run: Run, home: Path, recipes: Path, beside: bool) -> Found | str:
    """Run what is missing of one run, each stage in a process of its own, and return its figures.

    Where a stage fails, return which one and its last line: the other runs go on, since a seed on which a stage fails
    is one of the things to be found.
    """
    home.mkdir(parents=True, exist_ok=True)
    threads = str(run.threads)
    environment = os.environ | {"TINY": str(home), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    log = home / LOG
    for command in commands(run, home, recipes, beside):
        with log.open("ab") as output:
            words = [sys.executable, "-m", *command]
            code = subprocess.run(words, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
        if code:
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            return f"{command[0]} {command[1]} ended with code {code}: {last} ({log} has all of it)"
    return read_run(home, [stage.folder for stage in STAGES if not stage.beside])


def finish_all(given: Any) -> Iterator[tuple[Run, Found | str]]:
    """Every run with its figures, as it finishes."""
    for threads in given.threads:
        pool = ThreadPoolExecutor(given.jobs if threads == 1 else 1)
        beside = threads == given.threads[0]
        runs = [Run(seed, threads) for seed in dict.fromkeys(given.seeds)]
        futures = {pool.submit(finish, run, given.folder / run.name, given.recipes, beside): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def line(run: Run | str, cells: Sequence[str], verdict: str) -> str:
    """A line of the console's table."""
    return f"{run!s:18}" + "".join(f"{cell:>11}" for cell in cells) + f"  {verdict}"


def run_line(run: Run, found: Found | str) -> str:
    if isinstance(found, str):
        return f"{run!s:18}  {found}"
    verdicts = run_bars(found)
    fails = [bar.short for bar, verdict in verdicts.items() if not verdict.ok]
    cells = [number(verdicts[bar].value) if bar in verdicts else "" for bar in BARS]
    return line(run, cells, f"FAILS: {', '.join(fails)}" if fails else "holds")


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tiny_seeds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="default: 0 to 4")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="OMP_NUM_THREADS; default: 1 and 2")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs of one thread at a time")
    parser.add_argument("--folder", type=Path, default=Path("runs/tiny-seeds"), help="a folder SEED-THREADS a run")
    parser.add_argument("--recipes", type=Path, default=Path("recipes/tiny"))
    parser.add_argument("--out", type=Path, default=Path("docs/tiny_seeds.md"))
    given = parser.parse_args(arguments)
    if min(given.seeds) < 0 or min(*given.threads, given.jobs) < 1:
        parser.error("--seeds are at least 0, --threads and --jobs at least 1")
    try:
        check_recipes(given.recipes)
        for path in (given.folder, given.out.parent):
            path.mkdir(parents=True, exist_ok=True)
    except RecipeError as error:
        parser.exit(2, f"error: {error}\n")
    except OSError as error:
        parser.exit(2, f"error: {error.filename} cannot be made ({error.strerror}); name another folder\n")
    found: dict[Run, Found | str] = {}
    print(f"What the stages print is in {given.folder}/SEED-THREADS/{LOG}.\n")
    print(line("", [bar.short for bar in BARS], ""))
    print(line("required", [str(bar.requirement) for bar in BARS], ""), flush=True)
    try:
        for run, of in finish_all(given):
            found[run] = of
            print(run_line(run, of), flush=True)
    except KeyboardInterrupt:
        parser.exit(130, "\nstopped; the same command resumes\n")
    found = dict(sorted(found.items()))
    judged = Judgement(
        {run: of for run, of in found.items() if isinstance(of, Found)},
        {run: of for run, of in found.items() if isinstance(of, str)},
    )
    if judged.runs:
        for what, holds in judged.pooled.items():
            print(f"{'holds' if holds else 'FAILS'}  {what}")
        durable.write_text(
            given.out, document(judged, shlex.join([".venv/bin/python", "-m", "bench.tiny_seeds", *arguments]))
        )
        print(f"{given.out}: written")
    sys.exit(1 if judged.failures else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
