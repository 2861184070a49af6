"""The lifecycle that all stages share: resuming, stopping, checkpoints, write errors, and the end of a run."""

import json
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from config import load
from engine.errors import RunError
from engine.files import durable
from engine.run import checkpoints, interruption, lifecycle
from engine.run.disk_space import DiskNeeds
from engine.run.folder import RunFolder
from engine.run.interruption import Interruption
from engine.run.lifecycle import Lifecycle
from engine.run.time_limit import OUT_OF_TIME
from sft.recipe import SFT

NO_NEEDS = DiskNeeds(0, 0)
DISK = SimpleNamespace(total=1 << 40, free=7 << 19)  # 3.5 MiB free


@pytest.fixture
def run(tmp_path):
    """Return a function that opens the run as a new process does."""
    (tmp_path / "sft.yaml").write_text(
        f"stage: sft\nmodel: {{path: x}}\ndata: {{train: x.jsonl}}\nrun: {{dir: {tmp_path}/run, keep_checkpoints: 2}}\n"
    )

    def run(*overrides):
        recipe = load(SFT, tmp_path / "sft.yaml", overrides)
        return Lifecycle("sft", RunFolder(recipe), recipe.run)

    return run


def steps(life, *numbers):
    """Run steps, each logged and saved."""
    with life.interruptible(Accelerator(cpu=True)):
        life.begin(9, NO_NEEDS)
        for step in numbers:
            life.metrics.append({"step": step})
            assert not life.end_step(step)
            with life.checkpoint() as folder:
                (folder / "weights").write_text(str(step))


def test_the_duration_of_a_long_run_is_estimated_once(run, capsys, monkeypatch):
    monkeypatch.setattr("engine.run.time_limit.TimeLimit.so_far", property(lambda self: 60.0))
    steps(run(), 1, 2, 3, 4)
    expected = "a step takes about 60 s: 6 minutes for the 6 steps left, without evaluations and checkpoints\n"
    assert capsys.readouterr().out.count(expected) == 1


def test_a_short_run_has_no_estimate(run, capsys):
    steps(run(), 1, 2, 3, 4)
    assert "a step takes" not in capsys.readouterr().out


def names(folder):
    return sorted(path.name for path in folder.glob("*checkpoint-*"))


def test_a_run_resumes_from_its_newest_complete_checkpoint(run, tmp_path, capsys):
    life = run()
    assert (life.resume_from, life.step) == (None, 0)
    steps(life, 1, 2, 3)
    life.metrics.append({"step": 4})  # logged, but not saved
    folder = tmp_path / "run"
    assert names(folder) == ["checkpoint-2", "checkpoint-3"]
    checkpoints.begin(folder / ".checkpoint-4.partial")
    (folder / "checkpoint-3" / checkpoints.COMPLETE_FILE).rename(folder / "checkpoint-3" / checkpoints.WRITING_FILE)
    life = run()
    assert life.resume_from == folder / "checkpoint-2"
    assert names(folder) == ["checkpoint-2"]
    assert [row["step"] for row in life.metrics.rows] == [1, 2]
    steps(life, 3)
    assert f"{folder}: continuing from checkpoint-2\n" in capsys.readouterr().out
    assert (folder / "checkpoint-3" / "weights").read_text() == "3"


def test_a_refused_recipe_removes_no_checkpoint(run, tmp_path):
    steps(run(), 1)
    (tmp_path / "run" / "recipe.yaml").unlink()
    (tmp_path / "run" / "checkpoint-2").mkdir()
    with pytest.raises(RunError, match=r"contains a run of another recipe, which differs in run\.seed; name another"):
        run("run.seed=1")
    assert names(tmp_path / "run") == ["checkpoint-1", "checkpoint-2"]
    (tmp_path / "run" / "checkpoint-1").rename(tmp_path / "away")
    with pytest.raises(RunError, match=r"contains metrics\.jsonl, which is not from a run"):
        run("run.seed=1")


def test_logs_are_synced_before_a_checkpoint_is_sealed(run, tmp_path, monkeypatch):
    synced, sync = [], durable.sync
    monkeypatch.setattr(durable, "sync", lambda path: (synced.append(path.name), sync(path)))
    life = run()
    life.open_log("rollouts.jsonl")
    synced.clear()
    steps(life, 1)
    assert synced[:2] == ["metrics.jsonl", "rollouts.jsonl"]
    assert (
        synced.index("rollouts.jsonl") < synced.index("weights") < synced.index(f".{checkpoints.COMPLETE_FILE}.partial")
    )


@pytest.mark.parametrize(("code", "step", "stops"), [(143, 9, True), (OUT_OF_TIME, 8, True), (OUT_OF_TIME, 9, False)])
def test_reaching_the_time_limit_at_the_last_step_does_not_stop_the_run(run, monkeypatch, code, step, stops):
    life = run()
    monkeypatch.setattr(Interruption, "code", lambda self: code)
    with life.interruptible(Accelerator(cpu=True)):
        life.begin(9, NO_NEEDS)
        assert life.end_step(step) is stops
    assert life.stop_code == (code if stops else 0)


@pytest.mark.parametrize(
    ("done", "phase", "ended", "line"),
    [
        ((), "", None, "step 1 to end (72 s so far); a second signal exits immediately, and the same command then "
                       "starts over"),
        ((1, 2), "learn", 3, "step 4 to end (phase learn, 72 s so far; the longest before it took 41 s); a second "
                             "signal exits immediately, and the same command then continues from checkpoint-2"),
        ((1, 2), "", 9, "checkpoint-9 to be saved (72 s so far; the longest before it took 17 s); a second signal "
                        "exits immediately, and the same command then continues from checkpoint-2"),
    ],
)  # fmt: skip
def test_a_long_step_is_described_after_a_signal(run, monkeypatch, capsys, done, phase, ended, line):
    life = run()
    steps(life, *done)
    monkeypatch.setattr(interruption, "PATIENCE_SECONDS", 0.0)
    with life.interruptible(Accelerator(cpu=True)):
        life.begin(9, NO_NEEDS)
        if ended:
            life.end_step(ended)
            life.limit.took("step", 41.2)
            life.limit.took("save", 17.3)
        life.phase, life.limit._lap_began = phase, time.time() - 72
        os.kill(os.getpid(), signal.SIGTERM)
        printed, deadline = "", time.monotonic() + 60
        while "still" not in printed:
            assert time.monotonic() < deadline
            time.sleep(0.01)
            printed += capsys.readouterr().err
    assert printed.splitlines()[1] == f"SIGTERM: still waiting for {line}"


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: full"), RuntimeError("writer failed")]
)
def test_a_write_error_is_one_line_and_leaves_no_incomplete_checkpoint(run, tmp_path, error):
    life = run()
    steps(life, 1)

    def write_and_fail():
        with life.interruptible(Accelerator(cpu=True)):
            life.begin(9, NO_NEEDS)
            life.end_step(2)
            with life.checkpoint() as folder:
                (folder / "weights").write_text("half")
                raise error

    with pytest.raises(RunError) as raised:
        write_and_fail()
    assert str(raised.value) == (
        f"{tmp_path}/run/checkpoint-2 cannot be written ({error}); make room or fix the folder's permissions, then "
        "the same command continues from checkpoint-1"
    )
    assert names(tmp_path / "run") == ["checkpoint-1"]


def test_too_little_disk_space_is_reported_before_the_first_step(run, tmp_path, monkeypatch):
    life = run()
    monkeypatch.setattr("shutil.disk_usage", lambda path: DISK)
    with pytest.raises(RunError) as raised, life.interruptible(Accelerator(cpu=True)):
        life.begin(9, DiskNeeds(3 << 20, 1 << 20))
    assert str(raised.value) == (
        "run.dir: a checkpoint and the finished model take about 4.0 MiB, and "
        f"{tmp_path}/run has 3.5 MiB free; make room, or name a folder on another disk as run.dir"
    )
    assert life.metrics.rows == []


def test_a_full_disk_under_torchs_writer_is_reported_with_the_space_needed(run, tmp_path, monkeypatch):
    life = run()
    with life.interruptible(Accelerator(cpu=True)):
        life.begin(9, DiskNeeds(3 << 20, 1 << 20))
    monkeypatch.setattr("shutil.disk_usage", lambda path: DISK)
    full = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")
    with pytest.raises(RunError) as raised, life.writing(tmp_path / "run" / "checkpoint-1"):
        raise full
    assert str(raised.value) == (
        f"{tmp_path}/run/checkpoint-1 cannot be written (No space left on device; a checkpoint takes about 3.0 MiB); "
        "make room or fix the folder's permissions, then the same command starts over"
    )


def test_out_of_memory_is_not_reported_as_a_full_disk(run):
    life = run()
    with pytest.raises(torch.OutOfMemoryError), life.writing(life.folder.path):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_run_is_marked_finished_after_the_copies_and_pushed_last(run, tmp_path, monkeypatch):
    life, order = run(), []
    monkeypatch.setattr(life.store, "wait", lambda: order.append("copied"))
    monkeypatch.setattr(life.store, "clear", lambda: order.append("disk freed"))
    monkeypatch.setattr(lifecycle, "leave_group", lambda _: order.append("left"))
    monkeypatch.setattr(lifecycle.hub, "push_after", lambda *_: order.append("pushed"))
    finish = life.folder.finish
    monkeypatch.setattr(life.folder, "finish", lambda *given: (order.append("finished"), finish(*given)))
    steps(life, 1)
    life.write_model("model", lambda folder: (folder / "weights").write_text("1"))
    order.clear()
    life.finish()
    assert order == ["copied", "finished", "disk freed", "left", "pushed"]
    assert json.loads((tmp_path / "run" / "finished.json").read_text())["steps"] == 1


def test_a_finished_run_stays_finished_until_the_first_step_of_a_longer_one(run, tmp_path):
    mark, constant = tmp_path / "run" / "finished.json", "trainer.lr_scheduler_type=constant"
    life = run(constant, "trainer.max_steps=1")
    steps(life, 1)
    life.folder.finish(1, 1.0)
    longer = run(constant, "trainer.max_steps=9")
    assert mark.exists()  # until the first step, since the run may still be refused
    with longer.interruptible(Accelerator(cpu=True)):
        longer.begin(9, NO_NEEDS)
        assert not mark.exists()


def test_a_model_folder_with_files_of_the_user_is_renamed(run, tmp_path, capsys):
    life, model = run(), tmp_path / "run" / "model"
    for text in ("1", "2"):
        life.write_model("model", lambda folder, text=text: (folder / "weights").write_text(text))
        (model / "README.md").write_text("of a push")
    assert not list((tmp_path / "run").glob("model.other-*"))
    (model / "notes.txt").write_text("mine")
    life.write_model("model", lambda folder: (folder / "weights").write_text("3"))
    assert capsys.readouterr().out == (
        f"{model} contains files that this run does not write; renamed to model.other-1\n"
    )
    aside = tmp_path / "run" / "model.other-1"
    assert [(path / "weights").read_text() for path in (model, aside)] == ["3", "2"]
    assert (aside / "notes.txt").read_text() == "mine"
