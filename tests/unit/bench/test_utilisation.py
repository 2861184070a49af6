"""The table of utilisation: its arithmetic by hand, real stages on a tiny shape, failures, and rows that exist."""

import json
import re
import time
from dataclasses import asdict
from pathlib import Path

import pytest

import bench.utilisation
from bench.utilisation import SEQUENCES_PER_STEP, Setting, Size, main, make_models, matching_settings, measure, settings
from bench.utilisation_table import COLUMNS, PHASE_TITLES, table_cells, utilisation
from tests.support.paths import ROOT

TINY = Size(32, 2, 4, 2, 64, 400, False, 4, 2, False)
# Inputs times outputs of all linear layers: q and o, k and v, the three layers of the MLP.
LINEAR_PARAMETERS = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
ROW = {
    "device": "one", "length": 2048, "seconds": 2.0, "tokens": 16384, "phases": {}, "flops": 12e12, "again": 2e12,
    "product_flops": 1e13, "peak": 3e9, "planned": 2.5e9,
}  # fmt: skip


def tiny_setting(stage, method, length=64):
    return Setting(f"tiny/{stage}/{method}/{length}/float32", stage, method, length, "float32", TINY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


def test_utilisation_by_hand():
    # 10 and 12 TFLOP in two seconds on a device of 10 TFLOP/s
    assert utilisation(ROW) == (0.5, 0.6)
    assert table_cells("7b/sft/lora/2048/bfloat16", ROW) == [
        "7b/sft/lora/2048/bfloat16", "8,192", "2.00", "50%", "60%", "10", "3.00", "2.50", "23.8 / 5.2",
    ]  # fmt: skip
    ppo = ROW | {"length": 512, "phases": {"sample": 0.25, "score": 0.5, "learn": 1.2}}
    assert table_cells("7b/ppo/lora/512/bfloat16", ppo)[2] == "2.00 (sampling 0.25, scoring 0.50, updates 1.20)"
    assert table_cells("7b/ppo/lora/512/bfloat16", ppo)[-1] == ""


def test_the_table_of_the_page_is_the_one_that_is_printed():
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(COLUMNS[:-1])} |\n" in page  # without Qwen's figures, which are of other sizes
    phases = re.findall(r"\((\w+) [\d.]+, (\w+) [\d.]+, (\w+) [\d.]+\) \|", page)
    assert set(phases) == {tuple(PHASE_TITLES.values())}


def test_patterns_and_lengths_select_settings():
    names = [setting.name for setting in matching_settings(["1.8b/sft/*/bfloat16"], [256, 8192])]
    assert names == [f"1.8b/sft/{m}/{n}/bfloat16" for m in ("lora", "all", "qlora") for n in (256, 8192)]
    assert settings()["7b/sft/lora/2048/bfloat16"].size == Size(4096, 32, 32, 32, 11008, 151936, False, 64, 16, True)
    with pytest.raises(ValueError, match="unknown setting") as error:
        matching_settings(["7b/*", "8b/*"], [])
    assert str(error.value) == (
        "unknown setting 8b/*; use 7m|40m|0.5b|1.8b|7b / sft|reward|ppo / lora|all|qlora / LENGTH / float32|bfloat16"
    )
    with pytest.raises(ValueError, match="--lengths must be at least 64"):
        matching_settings(["7b/*"], [10])


@pytest.mark.parametrize(("stage", "method"), [("sft", "lora"), ("reward", "all"), ("ppo", "all"), ("ppo", "lora")])
def test_a_real_stage_is_timed_and_counted(stage, method, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.utilisation, "matmul_flops_per_second", lambda dtype: 1e12)
    setting = tiny_setting(stage, method)
    models, home = make_models(setting, folder), tmp_path / "home"
    start = time.perf_counter()
    row = measure(asdict(setting), str(home), str(models), steps=2, seconds=500)
    assert row["steps"] == 2
    assert 0 < 2 * row["seconds"] < time.perf_counter() - start
    assert row["planned"] > 0
    assert 0 < utilisation(row)[0] <= utilisation(row)[1] < 1
    assert not list((home / "run").glob("checkpoint-*"))
    assert not (home / "run" / "model").exists()
    if stage == "sft":
        tokens = SEQUENCES_PER_STEP * 64
        layers = tokens * 2 * (LINEAR_PARAMETERS + 2 * 32 * 64)
        head = tokens * 2 * 400 * 32
        assert (row["tokens"], row["again"], row["flops"]) == (tokens, head, 2 * layers + 4 * head)
    elif stage == "reward":  # the prompt, the assistant's header and what both answers begin with are computed once
        assert SEQUENCES_PER_STEP * (2 * 64 - 39 - 2) < row["tokens"] <= SEQUENCES_PER_STEP * (2 * 64 - 39)
        assert row["again"] == 0
    else:
        assert 64 < row["tokens"] <= 2 * 2 * 32  # an answer may end before 32 tokens
        assert sum(row["phases"].values()) < row["seconds"]
        report = json.loads((home / "run" / "data.json").read_text())["prompts"]
        assert set(report["lengths"].values()) == {32}


@pytest.fixture
def device_known(monkeypatch):
    """Name a fixed device instead of asking a subprocess for it."""
    real = bench.utilisation.run_side
    monkeypatch.setattr(
        bench.utilisation,
        "run_side",
        lambda side, *rest, **more: "it" if "device" in side else real(side, *rest, **more),
    )


@pytest.mark.usefixtures("device_known")
def test_each_setting_is_measured_in_a_fresh_process_and_only_once(tmp_path, capsys):
    setting, other = tiny_setting("sft", "all"), tiny_setting("sft", "lora")
    main([setting], tmp_path, steps=1, seconds=500)
    assert "| tiny/sft/all/64/float32 | " in capsys.readouterr().out
    row = json.loads((tmp_path / "utilisation.json").read_text())[setting.name]
    assert row["tokens"] == SEQUENCES_PER_STEP * 64
    assert row["peak"] > 0  # only a fresh process allocates new memory

    # A measured setting is skipped; one that does not fit the device has a row.
    main([setting, other], tmp_path, steps=1, seconds=500, side="tests.support.bench_sides:out_of_memory")
    output = capsys.readouterr().out
    assert output.startswith(f"{setting.name}: measured already, on CPU, threads: ")
    assert "| tiny/sft/lora/64/float32 | out of memory |" in output
    assert "| tiny/sft/lora/64/float32 | out of memory |" in (tmp_path / "utilisation.md").read_text()
    assert json.loads((tmp_path / "utilisation.json").read_text())[setting.name] == row
    main([other], tmp_path, steps=1, seconds=500)
    assert f"{other.name}: measured already" in capsys.readouterr().out


@pytest.mark.usefixtures("device_known")
def test_other_failures_are_tried_again(monkeypatch, tmp_path, capsys):
    setting = tiny_setting("sft", "all")
    monkeypatch.setattr(bench.utilisation, "make_models", lambda *_: tmp_path)
    main([setting], tmp_path, steps=1, seconds=0.5, side="tests.support.bench_sides:slow")
    assert f"| {setting.name} | no step was timed within 0.5 s |" in capsys.readouterr().out
    main([setting], tmp_path, steps=1, seconds=500, side="tests.support.bench_sides:failing")
    assert f"| {setting.name} | TypeError: failing() got an unexpected keyword" in capsys.readouterr().out


def test_the_reward_model_links_to_the_weights_of_the_base(folder):
    models = make_models(tiny_setting("reward", "all"), folder)
    sizes = {name: sum(file.lstat().st_size for file in (models / name).glob("*.safetensors"))
             for name in ("base", "reward")}  # fmt: skip
    assert sizes["base"] > 2 * (LINEAR_PARAMETERS + 2 * 400 * 32)
    assert sizes["reward"] < 1000
    assert Path(models, "reward", "model-00000.safetensors").resolve().parent == models / "base"
