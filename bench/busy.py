"""Steps of training alone and beside one busy core, under settings of OpenMP: what waiting threads cost.

    python -m bench.busy [--rounds N]       a table, and runs/bench/busy.json; the same command continues

A step is one of recipes/tiny/ppo.yaml (with 32 responses, all of the full length) or recipes/tiny/sft.yaml, on random
weights of the tiny world's shape. The busy core is a Python process that counts. A setting's steps run in a process of
its own: alone and beside the busy core in turn, the other way round every other round, and the settings in the opposite
order with them. Ratios are to the step of the same round alone, as torch comes. Run it on a machine that does nothing
else: `others` of a line is how many cores were busy with something else meanwhile.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import psutil

from bench import planning
from bench.race import alone
from bench.row import Figures
from bench.timed import WARM, EnoughError, StepTimes
from config import load
from ppo.recipe import PPO
from ppo.train import train as train_ppo
from sft.recipe import SFT
from sft.train import train as train_sft

PLAIN = "as torch comes"
# Environment variables that name OpenMP's threads and how they wait; a setting begins without any.
PREFIXES = ("OMP_", "GOMP_", "KMP_", "MKL_")
SETTINGS: dict[str, dict[str, str]] = {
    PLAIN: {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=100000": {"GOMP_SPINCOUNT": "100000"},
    "KMP_BLOCKTIME=0": {"KMP_BLOCKTIME": "0"},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}
STAGES = ("ppo", "sft")
# Seconds after which a part (alone or beside the busy core) has steps enough.
PART_SECONDS = 2.0
COUNTING = "while True: pass"


def main(settings: Sequence[str], rounds: int, folder: Path) -> None:
    """Measure the rounds that busy.json does not hold yet, then print the table."""
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        del os.environ[name]
    home, written = folder.resolve() / "busy", folder / "busy.json"
    home.mkdir(parents=True, exist_ok=True)
    alone("bench.busy:made", {"home": str(home)})
    found: list[dict[str, Figures]] = json.loads(written.read_text(encoding="utf-8")) if written.exists() else []
    for number in range(rounds):
        if number == len(found):
            found.append({})
        backwards = number % 2
        for name in list(settings)[:: -1 if backwards else 1]:
            if name in found[number]:
                continue
            given = {"home": str(home), "busy_first": bool(backwards)}
            found[number][name] = alone("bench.busy:measured", given, environment=SETTINGS[name])
            written.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            seconds = ", ".join(f"{part} {value:.3f}" for part, value in found[number][name].items())
            print(f"  round {number + 1}, {name}: {seconds}", flush=True)
    print(table(found[:rounds]))


def table(rounds: Sequence[dict[str, Figures]]) -> str:
    """A Markdown table: seconds of a step and ratios to the step alone as torch comes, median (least to greatest)."""
    titles = [f"{stage} {how}" for stage in STAGES for how in ("alone, s", "ratio", "beside a busy core, s", "ratio")]
    lines = ["| | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(titles)]
    for name in rounds[0]:
        both = [(figures[name], figures[PLAIN]) for figures in rounds if figures.keys() >= {name, PLAIN}]
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


def made(home: str) -> Figures:
    """Make random models of the tiny world's shape, and data, at the first call."""
    planning.made(planning.Setting("ppo", 128, 2, 4, 4, 384, 1280, True, 64), Path(home))
    planning.write_data(Path(home), text=255, prompt=30, answer=20)
    return {}


class InTurn(StepTimes):
    """Steps alone and beside a busy core, in turn, after some that are not timed."""

    def __init__(self, busy_first: bool):
        super().__init__(0, 0.0)
        self.left = ["busy", "alone"] if busy_first else ["alone", "busy"]
        self.part, self.found = "warm", {"warm": [0.0]}
        self.others = 0.0
        """cores that other processes kept busy while these steps were alone"""
        self.neighbour: subprocess.Popen[bytes] | None = None
        self.began, self.work_began = time.perf_counter(), 0.0

    def ended(self, tokens: int) -> None:
        seconds = self.found[self.part]
        seconds.append(time.perf_counter() - self.began)
        if len(seconds) > WARM if self.part == "warm" else sum(seconds) >= PART_SECONDS:
            self.next_part()
        self.began = time.perf_counter()

    def next_part(self) -> None:
        if self.part == "alone":
            self.others = (work_of_others() - self.work_began) / sum(self.found["alone"])
        self.stop_neighbour()
        if not self.left:
            raise EnoughError
        self.part = self.left.pop(0)
        self.found[self.part] = []
        if self.part == "busy":
            self.neighbour = subprocess.Popen([sys.executable, "-c", COUNTING])
        self.work_began = work_of_others()

    def stop_neighbour(self) -> None:
        if self.neighbour:
            self.neighbour.kill()
            self.neighbour.wait()
            self.neighbour = None

    def seconds(self, part: str) -> float:
        """Of a step."""
        return sum(self.found[part]) / len(self.found[part])


def work_of_others() -> float:
    """Seconds that the cores have worked so far, but not for this process."""
    everything, own = psutil.cpu_times(), psutil.Process().cpu_times()
    return everything.user + everything.nice + everything.system - own.user - own.system


def measured(home: str, busy_first: bool) -> Figures:
    """Return the seconds of a step of each stage, alone and beside a busy core, and what others did meanwhile."""
    common = [f"model.path={home}/base", f"run.dir={home}/run", "run.save_steps=100000"]
    stages = {
        "ppo": (train_ppo, PPO, ["reward.mix={}", f"reward.path={home}/reward", f"data.prompts={home}/prompts.jsonl",
                                 f"data.pretrain={home}/text.jsonl", "ppo.steps=100000", "ppo.queries_per_step=16"]),
        "sft": (train_sft, SFT, [f"data.train={home}/text.jsonl", "trainer.max_steps=100000"]),
    }  # fmt: skip
    figures = {}
    for stage, (train, schema, overrides) in stages.items():
        shutil.rmtree(f"{home}/run", ignore_errors=True)
        times = InTurn(busy_first)
        try:
            with times.watching():
                train(load(schema, Path(f"recipes/tiny/{stage}.yaml"), [*common, *overrides]))
        finally:
            times.stop_neighbour()
        figures |= {f"{stage}_{part}": times.seconds(part) for part in ("alone", "busy")}
        figures[f"{stage}_others"] = times.others
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.busy", description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"{', '.join(SETTINGS)}; all by default")
    parser.add_argument("--rounds", type=int, default=4, help="how often every setting is measured, in all calls")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="where models and results go")
    given = parser.parse_args()
    if unknown := [name for name in given.settings if name not in SETTINGS]:
        parser.error(f"no setting is called {unknown[0]}; use {', '.join(SETTINGS)}")
    asked = given.settings or SETTINGS
    main([PLAIN, *(name for name in asked if name != PLAIN)], given.rounds, given.folder)
