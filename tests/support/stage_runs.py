"""Helpers for tests of whole runs: write a base model and data, kill a stage, and compare metrics and weights."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from engine.files.jsonl import read
from engine.run.checkpoints import step_of
from engine.run.metrics import TIMING
from tests.support.small_models import small_model
from tests.support.tokenizers import llama, qwen


def write_base(folder: Path, family: str = "qwen2", **changes: Any) -> PreTrainedTokenizerFast:
    """Write a random base model with its tokenizer; Llama's has no ChatML tokens."""
    tokenizer = llama(chatml=False) if family == "llama" else qwen()
    model = small_model(family, **{"vocab_size": len(tokenizer), **changes})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def command(stage: str, recipe: Path | str, *overrides: str) -> list[str]:
    return [sys.executable, "-m", stage, str(recipe), *overrides]


# Runs a stage that kills itself with SIGKILL once it has logged a step.
KILL_PROGRAM = """
import os, runpy, signal, sys
from engine.run.metrics import MetricsLog

_, stage, last, *arguments = sys.argv
append = MetricsLog.append

def append_and_die(log, row):
    append(log, row)
    if row["step"] >= int(last):
        os.kill(os.getpid(), signal.SIGKILL)

MetricsLog.append, sys.argv = append_and_die, [stage, *arguments]
runpy.run_module(stage, run_name="__main__", alter_sys=True)
"""


def run_and_kill(step: int, stage: str, recipe: Path | str, *overrides: str) -> None:
    """Run a stage in a process that kills itself when it has logged `step`; polling from here could be too late."""
    command = [sys.executable, "-c", KILL_PROGRAM, stage, str(step), str(recipe), *overrides]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == -signal.SIGKILL


def untimed(run: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without timings, which differ when a run is repeated."""
    return [{k: v for k, v in row.items() if not TIMING.search(k)} for row in read(run / "metrics.jsonl")]


def assert_metrics_close(one: Path, other: Path) -> None:
    """Assert equal metrics up to rounding, and that the same ones are null (the score of a response without an end)."""
    for a, b in zip(untimed(one), untimed(other), strict=True):
        numbers = [{name: value for name, value in row.items() if value is not None} for row in (a, b)]
        assert numbers[0] == pytest.approx(numbers[1], abs=2e-4, rel=1e-3)


def weights(run: Path, name: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / name / "model.safetensors")


def has_gradient(name: str) -> bool:
    """Return False for the biases of attention keys: softmax cancels them, so their gradient is rounding noise.

    Adam turns noise of any size into full steps, which differ between CPUs, numbers of threads and batch sizes.
    """
    return not name.endswith("k_proj.bias")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Return whether two sets of weights are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def store_in_bfloat16(model: Path) -> None:
    """Store the weights of a model folder in bfloat16, as published models do."""
    file = model / "model.safetensors"
    save_file({name: weight.bfloat16() for name, weight in load_file(file).items()}, file, {"format": "pt"})


def unfinish(run: Path, step: int) -> None:
    """Make a finished run look as if it had been killed after the checkpoint of `step`."""
    (run / "finished.json").unlink()
    for path in run.glob("checkpoint-*"):
        if step_of(path) > step:
            shutil.rmtree(path)
