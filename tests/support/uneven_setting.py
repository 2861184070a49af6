"""Runs on several ranks, for comparison with one: SFT and a reward model on 17 rows, which no batch size divides."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch.testing import assert_close

from config import load
from reward.recipe import Reward
from reward.train import train as train_reward
from sft.recipe import SFT
from sft.train import train as train_sft
from tests.integration.test_reward import pair
from tests.integration.test_sft import conversation
from tests.support.processes import run_stage
from tests.support.stage_runs import has_gradient, store_in_bfloat16, untimed, weights, write_base, write_jsonl

TRAIN = {"sft": (SFT, train_sft), "reward": (Reward, train_reward)}
# 17 rows in batches of 8: each of two epochs has two full batches and one of a single row; at most 4 rows at once.
RECIPE = """
stage: {stage}
model: {{path: {folder}/base}}
data: {{train: {folder}/{stage}.jsonl, eval: {folder}/{stage}_eval.jsonl, max_length: 64{packing}}}
run: {{dir: {folder}/run, save_steps: 2, keep_checkpoints: 3}}
trainer: {{per_device_train_batch_size: 4, gradient_accumulation_steps: 2, per_device_eval_batch_size: 2,
          num_train_epochs: 2, learning_rate: 1.0e-3, logging_steps: 1, gradient_checkpointing: false,
          lr_scheduler_type: linear, max_grad_norm: 0.5}}
"""
# Metrics that depend on the number of ranks or on a resume: an estimate of FLOPs, and a mean since the start.
NOT_COMPARED = ("total_flos", "train_loss")


def make_setting(folder: Path, **changes: Any) -> Path:
    """Write a base (with `changes` to its configuration), 17 training and 5 evaluation records, and two recipes."""
    folder.mkdir(exist_ok=True)
    write_base(folder / "base", **changes)
    store_in_bfloat16(folder / "base")
    for stage, record in (("sft", conversation), ("reward", pair)):
        write_jsonl(folder / f"{stage}.jsonl", map(record, range(17)))
        write_jsonl(folder / f"{stage}_eval.jsonl", map(record, range(17, 22)))
        packing = ", packing: false" if stage == "sft" else ""
        (folder / f"{stage}.yaml").write_text(RECIPE.format(folder=folder, stage=stage, packing=packing))
    return folder


def run_to_end(processes: int, hardware: str, setting: Path, stage: str, run: Path, *overrides: str) -> None:
    """Run a stage to its end: in this process if `hardware` is none, else on that many started ranks."""
    recipe, overrides = setting / f"{stage}.yaml", (*overrides, f"run.dir={run}")
    if hardware == "none":
        schema, train = TRAIN[stage]
        train(load(schema, recipe, list(overrides)))
    else:
        run_stage(stage, recipe, *overrides, processes=processes, hardware=hardware)


def run_in_this_process(setting: Path, stage: str, *overrides: str) -> Path:
    """Run a stage in this process, once for the same overrides; return its run folder."""
    run = setting / "-".join(["alone", stage, *overrides])
    if not run.exists():
        run_to_end(1, "none", setting, stage, run, *overrides)
    return run


def assert_same_run(one: Path, other: Path) -> None:
    """Assert that metrics, weights and configuration of two runs are equal to 1e-4."""
    for rows in zip(untimed(one), untimed(other), strict=True):
        a, b = ({name: value for name, value in row.items() if name not in NOT_COMPARED} for row in rows)
        assert b == pytest.approx(a, abs=1e-4, rel=1e-3)
    expected, got = weights(one), weights(other)
    assert expected.keys() == got.keys()
    for name in filter(has_gradient, expected):
        weight = expected[name]
        assert_close(got[name], weight, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")
    configs = [json.loads((run / "model" / "config.json").read_text()) for run in (one, other)]
    offsets = [config.pop("score_offset", 0.0) for config in configs]
    assert offsets[1] == pytest.approx(offsets[0], abs=1e-4)
    assert configs[0] == configs[1]
