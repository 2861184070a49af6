"""The benchmark: hand-computed figures, its processes, and that both sides of a race do the same work."""

import io
import json
import mmap
import os
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
from rich.console import Console
from transformers import Trainer

import bench.clock
import bench.encoding
import bench.planning
import bench.sft
from bench.planning import SETTINGS, Setting
from bench.race import race, run_side
from bench.row import compare, table
from engine.dist.devices import peak_memory
from tests.support.stage_runs import write_base

# Warnings of transformers and torch about TRL's defaults.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]

FASTER, SLOWER = [6.0, 9.0, 8.0], [2.0, 4.0, 2.0]


def test_the_ratio_of_a_row_is_the_median_over_its_rounds():
    ours = [{"rate": rate, "peak_mib": 100.0} for rate in FASTER]
    row = compare("work", "another", "rate", ours, [{"rate": r, "peak_mib": 400.0} for r in SLOWER], bar=3)
    assert row.ratios == [3.0, 2.25, 4.0]
    assert (row.ratio, row.met, row.ours["rate"], row.theirs["rate"]) == (3.0, True, 8.0, 2.0)
    assert row.as_json()["ratio"] == 3.0
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table([row, compare("work", "another", "rate", ours, ours, bar=3)]))
    text = console.export_text()
    assert re.search(r"work: rate +│ +8 │ +2 │ 3.00 \(2.25..4.00\) │ +3 met", text)
    assert re.search(r"peak mib +│ +100 │ +400 │ +0.25 │", text)
    assert re.search(r"1.00 \(1.00..1.00\) │ +3 NOT MET", text)


def test_sides_alternate_and_each_run_has_its_own_process(tmp_path):
    sides = {
        name: ("tests.support.bench_sides:succeeding", {"folder": str(tmp_path), "name": name}) for name in ("a", "bb")
    }
    found = race(sides, rounds=2)
    assert found == {"a": [{"rate": 1.0}] * 2, "bb": [{"rate": 2.0}] * 2}
    names, processes = zip(*(line.split() for line in (tmp_path / "ran").read_text().splitlines()), strict=True)
    assert names == ("a", "bb", "bb", "a")
    assert len({*processes, str(os.getpid())}) == 5


def test_a_failing_side_is_reported_with_its_exception():
    with pytest.raises(
        RuntimeError, match=r"tests.support.bench_sides:failing \{\} failed:(.|\n)*OSError: no such thing"
    ):
        run_side("tests.support.bench_sides:failing", {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stf"], "unknown part stf; use encoding, sft, comparisons, ppo, sandbox_start"),
        (["sft", "--data", "nowhere"], "error: nowhere/alpaca_en.json: no such file; the benchmark needs real data: "
                                       "pass its folder with --data"),
    ],
)  # fmt: skip
def test_command_line_mistakes_are_reported_without_a_traceback(arguments, message, tmp_path):
    command = [sys.executable, "-m", "bench", *arguments, "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith(f"{message}\n")
    assert "Traceback" not in done.stderr


@pytest.fixture
def given(tmp_path):
    """Write records in the form of Alpaca and a base model."""
    write_base(tmp_path / "base")
    triples = [
        (f"Say {n}.", "now" * (n % 2), "fox " * (1 + n % 9)) for n in range(64)
    ]  # enough that no run needs a second epoch, whose order would differ
    records = [dict(zip(("instruction", "input", "output"), texts, strict=True)) for texts in triples]
    (tmp_path / "alpaca_en.json").write_text(json.dumps(records))
    return {"records": str(tmp_path / "alpaca_en.json"), "base": str(tmp_path / "base")}


@pytest.mark.parametrize("settings", [bench.sft.DEFAULTS, bench.sft.BEST])
def test_both_sides_train_on_the_same_tokens(given, settings, monkeypatch):
    # The clock replaces this method; monkeypatch restores it after the test.
    monkeypatch.setattr(Trainer, "training_step", Trainer.training_step)
    monkeypatch.setattr(bench.sft, "STEPS", 7)
    step, seen = Trainer.training_step, []
    monkeypatch.setattr(bench.clock.Clock, "figures", lambda clock: seen.append(clock._tokens) or {})
    for run in (bench.sft.ours, bench.sft.trl):
        run(**given, settings=dict(settings))
        Trainer.training_step = step
    ours, trl = seen
    assert len(ours) == 7
    assert ours == trl


def test_the_clock_does_not_count_the_first_steps_and_the_last(monkeypatch):
    monkeypatch.setattr(Trainer, "training_step", lambda *_: None)
    seconds = iter(range(100))
    monkeypatch.setattr(bench.clock.time, "perf_counter", lambda: next(seconds))
    clock = bench.clock.Clock()
    for tokens in (99, 99, 99, 99, 10, 20, 30, 99):
        padded = torch.zeros(1, tokens + 5, dtype=torch.long)
        mask = torch.arange(tokens + 5)[None] < tokens
        Trainer.training_step(None, None, {"input_ids": padded, "attention_mask": mask}, None)
    assert clock.figures()["tokens_per_second"] == (10 + 20 + 30) / 3


def test_peak_memory_after_a_reset_counts_later_allocations():
    before = bench.clock.reset_peak_memory()
    with mmap.mmap(-1, 2**26) as memory:  # new pages, not memory that the allocator has kept
        for page in range(0, 2**26, mmap.PAGESIZE):
            memory[page] = 1
    assert 2**25 < peak_memory() - before < 2**28


def test_a_planning_setting_is_written_and_its_peak_is_planned(tmp_path):
    small = Setting("ppo", 32, 2, 4, 2, 64, 400, True, 64)
    planned = bench.planning.plan_peak(asdict(small), str(tmp_path / "home"))["mib"]
    assert 60 < planned < 80  # MiB, nearly all of them the process itself
    assert (tmp_path / "home" / "reward" / "model.safetensors").exists()
    frozen = [setting.frozen for setting in SETTINGS.values()]
    assert len(frozen) >= 6
    assert 2 * sum(frozen) >= len(frozen)


def test_both_sides_encode_the_same_tokens(given, monkeypatch):
    """Labels differ: TRL's template also trains on two newlines per turn."""
    monkeypatch.setattr(bench.encoding, "TIMED_RUNS", 1)
    made = []
    monkeypatch.setattr(bench.encoding, "tokens_per_second", lambda prepare: made.append(list(prepare())) or {})
    bench.encoding.ours(**given)
    bench.encoding.trl(**given)
    ours, trl = made
    assert [row["input_ids"] for row in ours] == [row["input_ids"] for row in trl]
