"""Time of training steps alone and beside another busy process, for several OpenMP settings: the cost of busy waiting.

    python -m bench.busy [--rounds N]       print a table and write runs/bench/busy.json; the same command resumes

A step is one of recipes/tiny/ppo.yaml (with 32 responses, all of full length) or of recipes/tiny/sft.yaml, on random
weights with the shape of the tiny world's model. The other process is a Python loop that keeps one core busy. Each
setting runs in its own process, first alone and then beside the other process. Every other round reverses this order
and the order of the settings. Ratios are relative to the step alone with torch's defaults in the same round. Run it on
an idle machine: `others` is the mean number of cores that other processes used meanwhile.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from bench import planning
from bench.race import run_side
from bench.row import Figures
from bench.timed import WARMUP_STEPS, EnoughError, StepTimes
from config import load
from config.schema import Recipe
from ppo.recipe import PPO
from ppo.train import train as train_ppo
from sft.recipe import SFT
from sft.train import train as train_sft

UNCHANGED = "as torch comes"
# Environment variables that set the number of OpenMP threads and how they wait; they are removed before each setting.
OPENMP_PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_")
SETTINGS: dict[str, dict[str, str]] = {
    UNCHANGED: {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "KMP_BLOCKTIME=0": {"KMP_BLOCKTIME": "0"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
STAGES = ("ppo", "sft")
# Each part (alone, or beside the busy process) runs steps for at least this many seconds.
PART_SECONDS = 2.0
BUSY_PROGRAM = "while True: pass"


def main(settings: Sequence[str], rounds: int, folder: Path) -> None:
    """Measure the rounds that are not in busy.json yet, then print the table."""
    for name in [name for name in os.environ if name.startswith(OPENMP_PREFIXES)]:
        del os.environ[name]
    home, written = folder.resolve() / "busy", folder / "busy.json"
    home.mkdir(parents=True, exist_ok=True)
    run_side("bench.busy:make_inputs", {"home": str(home)})
    found: list[dict[str, Figures]] = json.loads(written.read_text(encoding="utf-8")) if written.exists() else []
    for number in range(rounds):
        if number == len(found):
            found.append({})
        backwards = number % 2
        for name in list(settings)[:: -1 if backwards else 1]:
            if name in found[number]:
                continue
            given = {"home": str(home), "busy_first": bool(backwards)}
            found[number][name] = run_side("bench.busy:measure", given, environment=SETTINGS[name])
            written.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            seconds = ", ".join(f"{part} {value:.3f}" for part, value in found[number][name].items())
            print(f"  round {number + 1}, {name}: {seconds}", flush=True)
    print(table(found[:rounds]))


def table(rounds: Sequence[dict[str, Figures]]) -> str:
    """Return a Markdown table: median seconds per step, and the ratio to torch's defaults alone (range)."""
    titles = [f"{stage} {how}" for stage in STAGES for how in ("alone, s", "ratio", "beside a busy core, s", "ratio")]
    lines = ["| | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(titles)]
    for name in rounds[0]:
        both = [(figures[name], figures[UNCHANGED]) for figures in rounds if figures.keys() >= {name, UNCHANGED}]
        cells = []
        for stage in STAGES:
            for part in ("alone", "busy"):
                ratios = [own[f"{stage}_{part}"] / plain[f"{stage}_alone"] for own, plain in both]
                cells += [
                    f"{median(own[f'{stage}_{part}'] for own, _ in both):.2f}",
                    f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def make_inputs(home: str) -> Figures:
    """Write random models with the tiny world's shape, and data, if `home` does not have them yet. Returns {}."""
    planning.make_inputs(planning.Setting("ppo", 128, 2, 4, 4, 384, 1280, True, 64), Path(home))
    planning.write_data(Path(home), text=255, prompt=30, answer=20)
    return {}


class AlternatingSteps(StepTimes):
    """Time steps alone and beside a busy process, after some warm-up steps that are not timed."""

    def __init__(self, busy_first: bool):
        super().__init__(0, 0.0)
        self.left = ["busy", "alone"] if busy_first else ["alone", "busy"]
        self.part, self.found = "warm", {"warm": [0.0]}
        self.others = 0.0
        """mean number of cores that other processes used while the steps ran alone"""
        self.neighbour: subprocess.Popen[bytes] | None = None
        self.began, self.work_began = time.perf_counter(), 0.0

    def end_step(self, tokens: int) -> None:
        seconds = self.found[self.part]
        seconds.append(time.perf_counter() - self.began)
        if len(seconds) > WARMUP_STEPS if self.part == "warm" else sum(seconds) >= PART_SECONDS:
            self.next_part()
        self.began = time.perf_counter()

    def next_part(self) -> None:
        if self.part == "alone":
            self.others = (other_cpu_seconds() - self.work_began) / sum(self.found["alone"])
        self.stop_neighbour()
        if not self.left:
            raise EnoughError
        self.part = self.left.pop(0)
        self.found[self.part] = []
        if self.part == "busy":
            self.neighbour = subprocess.Popen([sys.executable, "-c", BUSY_PROGRAM])
        self.work_began = other_cpu_seconds()

    def stop_neighbour(self) -> None:
        if self.neighbour:
            self.neighbour.kill()
            self.neighbour.wait()
            self.neighbour = None

    def part_seconds(self, part: str) -> float:
        """Return the mean seconds per step of "alone" or "busy"."""
        return sum(self.found[part]) / len(self.found[part])


def other_cpu_seconds() -> float:
    """Return the CPU seconds of all other processes since the machine started, summed over cores."""
    everything, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return everything.user + everything.nice + everything.system - own.user - own.system


def measure(home: str, busy_first: bool) -> Figures:
    """Return for each stage the seconds per step, alone and beside a busy process, and the cores that others used."""
    common = [f"model.path={home}/base", f"run.dir={home}/run", "run.save_steps=100000"]
    stages: dict[str, tuple[Callable[[Any], None], type[Recipe], list[str]]] = {
        "ppo": (train_ppo, PPO, ["reward.mix={}", f"reward.path={home}/reward", f"data.prompts={home}/prompts.jsonl",
                                 f"data.pretrain={home}/text.jsonl", "ppo.steps=100000", "ppo.queries_per_step=16"]),
        "sft": (train_sft, SFT, [f"data.train={home}/text.jsonl", "trainer.max_steps=100000"]),
    }  # fmt: skip
    figures: Figures = {}
    for stage, (train, schema, overrides) in stages.items():
        shutil.rmtree(f"{home}/run", ignore_errors=True)
        times = AlternatingSteps(busy_first)
        try:
            with times.recording():
                train(load(schema, Path(f"recipes/tiny/{stage}.yaml"), [*common, *overrides]))
        finally:
            times.stop_neighbour()
        figures |= {f"{stage}_{part}": times.part_seconds(part) for part in ("alone", "busy")}
        figures[f"{stage}_others"] = times.others
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.busy", description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"{', '.join(SETTINGS)}; default: all")
    parser.add_argument("--rounds", type=int, default=4, help="how many times to measure each setting, over all calls")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="folder for models and results")
    given = parser.parse_args()
    if unknown := [name for name in given.settings if name not in SETTINGS]:
        parser.error(f"unknown setting {unknown[0]}; use {', '.join(SETTINGS)}")
    asked = given.settings or SETTINGS
    main([UNCHANGED, *(name for name in asked if name != UNCHANGED)], given.rounds, given.folder)
