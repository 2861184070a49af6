"""python -m bench.tiny_seeds: test whether `make tiny` aligns on every seed and with every number of threads.

A run is all stages of the tiny world with one seed and one OMP_NUM_THREADS, in a folder of its own. Finished stages are
skipped and interrupted ones resume, so you can stop the command and run it again. Each run is checked against the bars
(requirements) of bench/tiny_bars.py when it finishes. At the end all runs together are checked against those of
bench/tiny_pooled.py, and docs/tiny_seeds.md is written. The exit code is 1 if a bar or a stage fails.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from bench.tiny_bars import BARS, Run, RunResult, read_run, run_bars
from bench.tiny_pooled import Judgement, format_number
from bench.tiny_seeds_document import document
from config import RecipeError
from engine.files import durable

LOG_FILE = "log.txt"
# Exit codes of a stage that was stopped by SIGINT or SIGTERM: its own, and those of a process that died of them.
STOPPED_CODES = (130, 143, -signal.SIGINT, -signal.SIGTERM)


@dataclass(frozen=True)
class Stage:
    package: str
    recipe: str
    """file name without .yaml"""
    folder: str
    """run folder of the stage, relative to the folder of the run"""
    changes: tuple[str, ...] = ()
    """overrides of the recipe"""
    extra: bool = False
    """not a stage of `make tiny`: runs once per seed, and its time is not counted"""


# Bars are checked here; a gate in the recipe would end the run before everything is measured.
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
        ("run.dir=${oc.env:TINY}/rm-without-pmp", "model.path=${oc.env:TINY}/base/model"), extra=True,
    ),
    Stage(
        "eval", "eval", "eval-pmp",
        (
            "run.dir=${oc.env:TINY}/eval-pmp", "eval.measures=[comparisons]", "eval.reward=rm", NO_GATE,
            'eval.rewards={pmp: "${oc.env:TINY}/pmp/model", rm: "${oc.env:TINY}/rm/model", '
            'without_pmp: "${oc.env:TINY}/rm-without-pmp/model"}',
        ),
        extra=True,
    ),
)  # fmt: skip


def check_recipes(recipes: Path) -> None:
    """Raise RecipeError if the recipe of a stage does not exist."""
    for stage in STAGES:
        path = recipes / f"{stage.recipe}.yaml"
        if not path.exists():
            needed = ", ".join(dict.fromkeys(stage.recipe for stage in STAGES))
            raise RecipeError(f"{path} does not exist; --recipes needs a folder with the recipes {needed}")


def commands(run: Run, home: Path, recipes: Path, extra: bool) -> Iterator[list[str]]:
    """Yield the arguments of each `python -m`, in order; with `extra` also the stages that are not in `make tiny`."""
    yield ["tiny", f"{home}/world", "--seed", str(run.seed)]
    for stage in STAGES:
        if extra or not stage.extra:
            yield [stage.package, f"{recipes / stage.recipe}.yaml", f"run.seed={run.seed}", *stage.changes]


def finish_run(run: Run, home: Path, recipes: Path, extra: bool, stopping: threading.Event) -> RunResult | str:
    """Run the missing stages of one run, each in a new process, and return the results.

    If a stage fails, return which one and the last line of its output. This is no exception, because a failure is a
    result too and the other runs continue. If a stage was stopped by a signal, set `stopping`. Raise KeyboardInterrupt
    if it is set, so that no further stage starts.
    """
    home.mkdir(parents=True, exist_ok=True)
    threads = str(run.threads)
    environment = os.environ | {"TINY": str(home), "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    log = home / LOG_FILE
    for command in commands(run, home, recipes, extra):
        if stopping.is_set():
            raise KeyboardInterrupt
        with log.open("ab") as output:
            words = [sys.executable, "-m", *command]
            code = subprocess.run(words, env=environment, stdout=output, stderr=subprocess.STDOUT).returncode
        if code in STOPPED_CODES:
            stopping.set()
            raise KeyboardInterrupt
        if code:
            last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            return f"{command[0]} {command[1]} ended with code {code}: {last} (full output: {log})"
    return read_run(home, [stage.folder for stage in STAGES if not stage.extra])


def finish_runs(given: Any) -> Iterator[tuple[Run, RunResult | str]]:
    """Yield every run with its results as it finishes. Raise KeyboardInterrupt if one was stopped by a signal."""
    for threads in given.threads:
        pool = ThreadPoolExecutor(given.jobs if threads == 1 else 1)
        stopping = threading.Event()
        finish = partial(finish_run, recipes=given.recipes, extra=threads == given.threads[0], stopping=stopping)
        runs = [Run(seed, threads) for seed in dict.fromkeys(given.seeds)]
        futures = {pool.submit(finish, run, given.folder / run.name): run for run in runs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            stopping.set()
            pool.shutdown(cancel_futures=True)


def table_line(run: Run | str, cells: Sequence[str], verdict: str) -> str:
    """Return a line of the table on the console."""
    return f"{run!s:18}" + "".join(f"{cell:>11}" for cell in cells) + f"  {verdict}"


def run_line(run: Run, found: RunResult | str) -> str:
    """Return the line of a run: its figures and failed bars, or why it failed."""
    if isinstance(found, str):
        return f"{run!s:18}  {found}"
    verdicts = run_bars(found)
    fails = [bar.short for bar, verdict in verdicts.items() if not verdict.ok]
    cells = [format_number(verdicts[bar].value) if bar in verdicts else "" for bar in BARS]
    return table_line(run, cells, f"FAILS: {', '.join(fails)}" if fails else "holds")


def stop(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM like Ctrl-C, which the terminal sends to the running stages as well."""
    for stage in psutil.Process().children():
        stage.terminate()
    raise KeyboardInterrupt


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.tiny_seeds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="default: 0 to 4")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="OMP_NUM_THREADS; default: 1 and 2")
    parser.add_argument("--jobs", type=int, default=1, help="number of one-thread runs at a time")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/tiny-seeds"), help="contains a folder SEED-THREADS per run"
    )
    parser.add_argument("--recipes", type=Path, default=Path("recipes/tiny"))
    parser.add_argument("--out", type=Path, default=Path("docs/tiny_seeds.md"))
    given = parser.parse_args(arguments)
    if min(given.seeds) < 0 or min(*given.threads, given.jobs) < 1:
        parser.error("--seeds must be at least 0, --threads and --jobs at least 1")
    try:
        check_recipes(given.recipes)
        for path in (given.folder, given.out.parent):
            path.mkdir(parents=True, exist_ok=True)
    except RecipeError as error:
        parser.exit(2, f"error: {error}\n")
    except OSError as error:
        parser.exit(2, f"error: {error.filename} cannot be created ({error.strerror}); use another folder\n")
    signal.signal(signal.SIGTERM, stop)
    found: dict[Run, RunResult | str] = {}
    print(f"The output of the stages is in {given.folder}/SEED-THREADS/{LOG_FILE}.\n")
    print(table_line("", [bar.short for bar in BARS], ""))
    print(table_line("required", [str(bar.requirement) for bar in BARS], ""), flush=True)
    try:
        for run, of in finish_runs(given):
            found[run] = of
            print(run_line(run, of), flush=True)
    except KeyboardInterrupt:
        parser.exit(130, "\nstopped; the same command resumes\n")
    found = dict(sorted(found.items()))
    judged = Judgement(
        {run: of for run, of in found.items() if isinstance(of, RunResult)},
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
