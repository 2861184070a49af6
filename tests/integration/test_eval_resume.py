"""Evaluations that are killed, extended or gated: only missing items are computed, and other results stay the same."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from config import load
from engine.files import jsonl
from engine.run.entry import run
from eval.evaluate import evaluate
from eval.recipe import Eval
from tests.support.eval_setting import count_generated_prompts, kept_items, make_setting
from tests.support.paths import ROOT

FILES = ("answers.jsonl", "candidates.jsonl", "pairs.jsonl", "texts.jsonl")


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("eval"))


@pytest.fixture(scope="module")
def folder(setting):
    """Return the run folder of an uninterrupted evaluation."""
    evaluate(load(Eval, setting))
    return setting.parent / "eval"


def figures(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key != "seconds"}


def test_a_killed_evaluation_computes_only_the_missing_items(setting, folder, tmp_path, monkeypatch):
    """Killed with SIGKILL after some items, it ends with the same files as an uninterrupted evaluation."""
    command = [sys.executable, "-m", "eval", str(setting), f"run.dir={tmp_path}/run"]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, **silent) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and sum(kept_items(tmp_path / "run").values()) < 4:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "summary.json").exists()
    kept = kept_items(tmp_path / "run")
    expected = kept_items(folder)
    generated = {name: count for name, count in expected.items() if "_answers-" in name}
    missing = sum(count - min(kept.get(name, 0), count) for name, count in generated.items())
    assert 0 < missing < sum(generated.values()) == 40

    calls = count_generated_prompts(monkeypatch)
    evaluate(load(Eval, setting, [f"run.dir={tmp_path}/run"]))
    # A batch that the kill has left incomplete is generated again as a whole: less than a batch more.
    assert missing <= sum(calls) < missing + 4
    assert kept_items(tmp_path / "run") == expected
    for name in FILES:
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()
    assert figures(tmp_path / "run") == figures(folder)


def test_an_added_subject_leaves_the_other_figures_unchanged(setting, folder, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    evaluate(load(Eval, setting, [f"run.dir={run_dir}"]))
    calls = count_generated_prompts(monkeypatch)
    evaluate(load(Eval, setting, [f"run.dir={run_dir}", f"eval.subjects.again={setting.parent}/ppo/model"]))
    assert sum(calls) == 10
    before, after = figures(folder), figures(run_dir)
    for part in ("subjects", "differences", "pairs"):
        assert before[part].items() <= after[part].items()
    assert after["subjects"]["again"] == after["subjects"]["ppo"]
    assert before["rewards"] == after["rewards"]
    even = {"mean": 0.5, "ci95": [0.5, 0.5], "n": 10, "by": "gold"}
    assert after["pairs"]["ppo|again"]["answers"]["win_rate"] == even


def test_figures_do_not_depend_on_the_order_of_subjects(setting, folder, tmp_path):
    subjects = load(Eval, setting).eval.subjects
    turned = {name: subjects[name] for name in reversed(subjects)}
    evaluate(load(Eval, setting, [f"run.dir={tmp_path}/run", f"eval.subjects={json.dumps(turned)}"]))
    assert list(figures(tmp_path / "run")["subjects"]) == list(turned)
    assert figures(tmp_path / "run")["subjects"] == figures(folder)["subjects"]
    assert figures(tmp_path / "run")["differences"] == figures(folder)["differences"]


def test_a_changed_model_is_measured_again(setting, tmp_path, capsys):
    subjects = f"eval.subjects={{sft: {setting.parent}/sft/model}}"
    recipe = load(Eval, setting, [f"run.dir={tmp_path}/run", subjects, "data.texts={}"])
    evaluate(recipe)
    kept = kept_items(tmp_path / "run")
    capsys.readouterr()
    weights = setting.parent / "sft" / "model" / "model.safetensors"
    before = weights.stat()
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    try:
        run(evaluate, recipe)
        assert "already finished" not in capsys.readouterr().out
        added = {name: count for name, count in kept_items(tmp_path / "run").items() if name not in kept}
        assert {name.rpartition("-")[0]: count for name, count in added.items()} == {
            "sft_answers": 10,
            "sft_logprobs_under_sft": 10,
        }
    finally:
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


GATE = {"differences.ppo.answers.accuracy.mean": ">= -2", "subjects.sft.answers.without_end": "< 0"}


def test_a_failing_gate_exits_with_1_after_all_files_are_written(setting, folder, tmp_path, capsys):
    recipe = load(Eval, setting, [f"run.dir={tmp_path}/run", f"eval.require={json.dumps(GATE)}"])
    accuracy = figures(folder)["differences"]["ppo"]["answers"]["accuracy"]["mean"]
    without_end = figures(folder)["subjects"]["sft"]["answers"]["without_end"]
    for _ in range(2):  # a finished evaluation fails again
        with pytest.raises(SystemExit) as stopped:
            run(evaluate, recipe)
        assert stopped.value.code == 1
        shown = capsys.readouterr()
        assert f"ok     differences.ppo.answers.accuracy.mean = {accuracy}, required >= -2\n" in shown.out
        assert shown.err == f"FAILED subjects.sft.answers.without_end = {without_end}, required < 0\n"
    rows = json.loads((tmp_path / "run" / "require.json").read_text())
    assert [(row["path"], row["ok"]) for row in rows] == list(zip(GATE, (True, False), strict=True))
    assert figures(tmp_path / "run") == figures(folder)


def test_a_gate_that_holds_is_recorded_and_raises_nothing(setting, tmp_path):
    requirement = json.dumps({"subjects.sft.answers.items": "== 10"})
    evaluate(load(Eval, setting, [f"run.dir={tmp_path}/run", f"eval.require={requirement}"]))
    assert json.loads((tmp_path / "run" / "require.json").read_text())[0]["ok"]


def test_every_item_is_stored_on_one_line(folder):
    """Each item once, whatever the batches were."""
    for path in (folder / "items").glob("*_answers-*.jsonl"):
        rows = jsonl.read(path)
        assert len({row["of"] for row in rows}) == len(rows) == 10
