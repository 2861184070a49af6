"""The drill: kill a PPO run repeatedly with SIGKILL, also while it writes a checkpoint, and compare how it ends.

`make drill` kills twenty times, `make test` three. `python -m tests.support.drill [KILLS] [SEED]`
"""

import argparse
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from engine.files.jsonl import read
from engine.run import checkpoints
from ppo.train import train
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import command, same, untimed, weights

STEPS_A_KILL = 2
# A run with every kind of state: value warm-up, checkpoints, running reward statistics.
OVERRIDES = ["ppo.value_warmup_steps=2", "run.save_steps=2", "ppo.reward_normalisation=mean_std"]


class MismatchError(Exception):
    """The killed run did not end as the uninterrupted one."""


def drill(folder: Path, kills: int, seed: int, *changes: str) -> dict[str, int]:
    """Return the number of kills in a step and in a checkpoint; raise MismatchError at the first difference.

    `changes` are overrides of the killed run only. With run.local_dir, kills also hit the copying of checkpoints.
    """
    recipe, dice = make_setting(folder), random.Random(seed)
    steps = (kills + 1) * STEPS_A_KILL
    overrides = [*OVERRIDES, f"ppo.steps={steps}"]
    whole, killed = folder / "whole", folder / "killed"
    began = time.perf_counter()
    train(recipe_of(recipe, f"run.dir={whole}", *overrides))
    step_seconds = (time.perf_counter() - began) / steps

    fell = {"in a step": 0, "in a checkpoint": 0}
    for kill in range(kills):
        process = subprocess.Popen(
            command("ppo", recipe, f"run.dir={killed}", *overrides, *changes), stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        # Every other kill waits until a checkpoint has been started, and hits while it is written.
        writing = bool(kill % 2)
        wait_for(process, killed, kill * STEPS_A_KILL + 1, writing)
        time.sleep(dice.uniform(0, 0.02 if writing else step_seconds))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
        fell["in a checkpoint" if list(killed.glob(".checkpoint-*")) else "in a step"] += 1
    subprocess.run(command("ppo", recipe, f"run.dir={killed}", *overrides, *changes), check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    compare(whole, killed)
    return fell


def wait_for(process: subprocess.Popen[bytes], run: Path, step: int, writing: bool) -> None:
    """Wait until the run has logged `step` and, with `writing`, is writing a checkpoint."""
    deadline = time.monotonic() + 500
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise MismatchError(f"the run ended before the kill, or hangs: {process.stderr.read().decode()}")
        logged = [row["step"] for row in read(run / "metrics.jsonl")]
        if logged and logged[-1] >= step and (not writing or list(run.glob(".checkpoint-*"))):
            return
        time.sleep(0.001)


def compare(whole: Path, killed: Path) -> None:
    """Compare metrics, rollouts, models and the last checkpoint bit for bit; raise MismatchError if they differ."""
    if untimed(whole) != untimed(killed):
        raise MismatchError("metrics.jsonl differs")
    if read(whole / "rollouts.jsonl") != read(killed / "rollouts.jsonl"):
        raise MismatchError("rollouts.jsonl differs")
    for name in ("model", "value"):
        if not same(weights(whole, name), weights(killed, name)):
            raise MismatchError(f"{name}/ differs")
    one, other = (checkpoints.newest(run) for run in (whole, killed))
    parts = {path.relative_to(one).parts[:2] for path in one.rglob("*") if path.is_file()}
    if parts != {path.relative_to(other).parts[:2] for path in other.rglob("*") if path.is_file()}:
        raise MismatchError(f"{other} and {one} hold different files")
    for part in parts - {(checkpoints.RECIPE_FILE,)}:
        if not equal(content(one.joinpath(*part)), content(other.joinpath(*part))):
            raise MismatchError(f"{other.joinpath(*part)} differs")


def content(path: Path) -> Any:
    """Load a checkpoint's file, or a folder of torch's distributed checkpoint."""
    if path.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / "whole.pt"
            dcp_to_torch_save(path, whole)
            return content(whole)
    return torch.load(path, weights_only=False) if path.suffix == ".pt" else path.read_bytes()


def equal(one: Any, other: Any) -> bool:
    """Return whether two values of a checkpoint are equal bit for bit, comparing containers recursively."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool((one == other).all()) if hasattr(one, "all") else one == other


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="make drill")
    parser.add_argument("kills", type=int, nargs="?", default=20)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        fell = drill(Path(scratch), arguments.kills, arguments.seed)
    where = ", ".join(f"{count} {name}" for name, count in fell.items())
    print(f"{arguments.kills} kills ({where}): the run ended bit for bit as the uninterrupted one")
