"""Runs stopped by signals, full or read-only disks, out of memory, non-finite rewards, and other recipes."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import Trainer

import engine.scoring.scorer
from config import load
from engine.errors import RunError
from engine.files.jsonl import read
from engine.run import checkpoints, interruption
from engine.run.entry import run
from ppo.assess import assess
from ppo.train import train
from sft.recipe import SFT
from sft.train import train as train_sft
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import command, same, untimed, weights, write_base, write_jsonl

LONG_RUN = ["ppo.steps=500", "run.save_steps=500"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def in_namespace(script: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run a shell script that may mount file systems; skip the test where mount namespaces are not allowed."""
    allowed = subprocess.run(["unshare", "-rm", "true"], capture_output=True) if shutil.which("unshare") else None
    if allowed is None or allowed.returncode:
        pytest.skip("mount namespaces are not allowed on this machine")
    return subprocess.run(["unshare", "-rm", "sh", "-c", script, "sh", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_a_checkpoint_and_sets_the_exit_code(setting, tmp_path, number, code):
    process = subprocess.Popen(
        command("ppo", setting, f"run.dir={tmp_path}", *LONG_RUN), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 500
    while not read(tmp_path / "metrics.jsonl"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=500)
    assert process.returncode == code
    rows = read(tmp_path / "metrics.jsonl")
    assert checkpoints.newest(tmp_path) == tmp_path / f"checkpoint-{len(rows)}"
    assert f"{number.name}: finishing this step and saving; a second signal exits immediately\n" in err
    assert "Traceback" not in err
    assert out.endswith(f"{tmp_path}: saved checkpoint-{len(rows)}; the same command continues from there\n")


def test_a_run_stopped_by_a_signal_resumes_and_ends_bit_for_bit(setting, tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    train(recipe_of(setting, f"run.dir={one}"))
    monkeypatch.setattr("ppo.train.assess", lambda *args: (os.kill(os.getpid(), signal.SIGTERM), assess(*args))[1])
    with pytest.raises(SystemExit) as stopped:
        train(recipe_of(setting, f"run.dir={other}"))
    assert stopped.value.code == 143
    assert [path.name for path in checkpoints.complete_checkpoints(other)] == ["checkpoint-1"]
    monkeypatch.undo()
    train(recipe_of(setting, f"run.dir={other}"))
    assert untimed(one) == untimed(other)
    assert same(weights(one), weights(other))


def test_a_second_signal_exits_at_once(setting, tmp_path, monkeypatch):
    monkeypatch.setattr("ppo.train.assess", lambda *_: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)])
    with pytest.raises(SystemExit) as stopped:
        train(recipe_of(setting, f"run.dir={tmp_path}"))
    assert stopped.value.code == 130
    assert not checkpoints.complete_checkpoints(tmp_path)


def test_after_a_signal_a_long_step_prints_what_it_waits_for(setting, tmp_path, monkeypatch, capsys):
    """Once, in PPO with the phase; then the step ends, and the run saves and exits as usual."""

    def slow(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)
        return assess(*given)

    monkeypatch.setattr(interruption, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("ppo.train.assess", slow)
    with pytest.raises(SystemExit) as stopped:
        train(recipe_of(setting, f"run.dir={tmp_path}"))
    assert stopped.value.code == 143
    assert [path.name for path in checkpoints.complete_checkpoints(tmp_path)] == ["checkpoint-1"]
    first, second = [line for line in capsys.readouterr().err.splitlines() if line.startswith("SIGTERM")]
    assert first == "SIGTERM: finishing this step and saving; a second signal exits immediately"
    assert re.fullmatch(
        r"SIGTERM: still waiting for step 1 to end \(phase score, \d+ s so far\); a second signal exits "
        "immediately, and the same command then starts over",
        second,
    )


def test_after_a_signal_a_long_step_of_sft_prints_what_it_waits_for(tmp_path, monkeypatch, capsys):
    write_base(tmp_path / "base")
    data = write_jsonl(tmp_path / "train.jsonl", [{"prompt": f"Say {n}.", "response": f"{n}!"} for n in range(16)])
    given = [f"model.path={tmp_path}/base", f"data.train={data}", f"run.dir={tmp_path}/run", "run.save_steps=1",
             "trainer.max_steps=4"]  # fmt: skip
    recipe, step = load(SFT, "recipes/tiny/sft.yaml", given), Trainer.training_step

    def slow(trainer, *rest):
        if trainer.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
            monkeypatch.setattr(Trainer, "training_step", step)
        return step(trainer, *rest)

    monkeypatch.setattr(interruption, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(Trainer, "training_step", slow)
    with pytest.raises(SystemExit) as stopped:
        train_sft(recipe)
    assert stopped.value.code == 143
    assert checkpoints.newest(tmp_path / "run") == tmp_path / "run" / "checkpoint-3"
    assert re.search(
        r"\nSIGTERM: still waiting for step 3 to end \(\d+ s so far; the longest before it took \d+ s\); a second "
        r"signal exits immediately, and the same command then continues from checkpoint-2\n",
        capsys.readouterr().err,
    )


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(setting, tmp_path):
    """The disk has space for one and a half checkpoints."""
    train(recipe_of(setting, f"run.dir={tmp_path / 'whole'}", "ppo.steps=1", "run.save_steps=1"))
    one = sum(path.stat().st_size for path in (tmp_path / "whole" / "checkpoint-1").rglob("*"))
    disk = tmp_path / "disk"
    disk.mkdir()
    long = [f"run.dir={disk}/run", "ppo.steps=3", "run.save_steps=1"]
    done = in_namespace(
        f'mount -t tmpfs -o size={int(1.5 * one)} tmpfs {disk} && "$@"; code=$?; cp -r {disk}/run {tmp_path}/saved; '
        "exit $code",
        *command("ppo", setting, *long),
    )
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "error" in line] == [done.stderr.splitlines()[-1]]
    assert done.stderr.splitlines()[-1].startswith(f"error: {disk}/run/checkpoint-2 cannot be written (")
    assert done.stderr.endswith(
        "); make room or fix the folder's permissions, then the same command continues from checkpoint-1\n"
    )
    assert [path.name for path in (tmp_path / "saved").glob("*checkpoint-*")] == ["checkpoint-1"]
    shutil.copytree(tmp_path / "saved", disk / "run")
    train(recipe_of(setting, *long))
    train(recipe_of(setting, f"run.dir={tmp_path / 'long'}", *long[1:]))
    assert same(weights(disk / "run"), weights(tmp_path / "long"))


def test_a_read_only_folder_stops_the_run_at_once(setting, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for run_dir, message in (
        (folder, f"error: run.dir={folder}: cannot be written (Read-only file system)\n"),
        (
            folder / "run",
            f"error: run.dir={folder}/run: cannot be created (Read-only file system); name another folder\n",
        ),
    ):
        done = in_namespace(
            f'mount -t tmpfs -o ro tmpfs {folder} && exec "$@"', *command("ppo", setting, f"run.dir={run_dir}")
        )
        assert (done.returncode, done.stderr.splitlines(keepends=True)[-1]) == (2, message)


def test_a_folder_that_becomes_read_only_stops_the_run(setting, tmp_path):
    """As when a file system is remounted read-only after disk errors."""
    train(recipe_of(setting, f"run.dir={tmp_path}", "run.save_steps=1"))
    (tmp_path / "finished.json").unlink()
    shutil.rmtree(tmp_path / "checkpoint-3")
    script = f"""
import ppo.train, subprocess
plain = ppo.train.assess
def assess(*a):
    subprocess.run(["mount", "-o", "bind,remount,ro", "{tmp_path}"], check=True)
    return plain(*a)
ppo.train.assess = assess
from engine.run.entry import run
from tests.support.ppo_setting import recipe_of
run(ppo.train.train, recipe_of({str(setting)!r}, "run.dir={tmp_path}", "run.save_steps=1"))
"""
    done = in_namespace(f'mount --bind {tmp_path} {tmp_path} && exec "$@"', sys.executable, "-c", script)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"error: {tmp_path}/metrics.jsonl cannot be written ([Errno 30] Read-only file system: "
        f"'{tmp_path}/metrics.jsonl'); make room or fix the folder's permissions, then the same command continues "
        "from checkpoint-2"
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_stops_the_run(setting, tmp_path, monkeypatch, bad):
    plain, calls = engine.scoring.scorer.sequence_scores, iter(range(9))
    monkeypatch.setattr(
        engine.scoring.scorer, "sequence_scores", lambda *args: plain(*args) + (bad if next(calls) == 1 else 0.0)
    )  # fmt: skip
    with pytest.raises(RunError) as error:
        train(recipe_of(setting, f"run.dir={tmp_path}", "run.save_steps=1"))
    assert str(error.value) == (
        f"the reward of a response is not finite; look at {setting.parent}/reward (the last checkpoint is intact)"
    )
    assert [path.name for path in checkpoints.complete_checkpoints(tmp_path)] == ["checkpoint-1"]
    assert len(read(tmp_path / "metrics.jsonl")) == 1


def no_memory_in_torch(recipe):
    torch.empty(2**60)


def no_memory_on_a_gpu(recipe):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


@pytest.mark.parametrize("stage", [no_memory_in_torch, no_memory_on_a_gpu])
def test_out_of_memory_names_the_keys_to_lower(setting, tmp_path, capsys, stage):
    with pytest.raises(SystemExit) as stopped:
        run(stage, recipe_of(setting, f"run.dir={tmp_path}", "ppo.micro_batch_tokens=4096"))
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: out of memory; during generation lower sampling.batch_size (it is 256), otherwise "
        "ppo.micro_batch_tokens (it is 4096); neither changes the result. If that is not enough, lower "
        "sampling.max_new_tokens or data.pretrain_length. The last checkpoint is intact\n"
    )


def test_out_of_memory_in_sft_names_the_trainers_keys(capsys):
    with pytest.raises(SystemExit):
        run(no_memory_on_a_gpu, SFT())
    assert "lower trainer.per_device_train_batch_size" in capsys.readouterr().err


def test_a_checkpoint_of_another_recipe_is_refused_with_the_differing_keys(setting, tmp_path):
    train(recipe_of(setting, f"run.dir={tmp_path}", "ppo.steps=1"))
    for name in ("recipe.yaml", "finished.json"):
        (tmp_path / name).unlink()
    with pytest.raises(RunError) as error:
        train(recipe_of(setting, f"run.dir={tmp_path}", "ppo.steps=2", "ppo.lam=0.5"))
    assert str(error.value) == (
        f"run.dir={tmp_path} contains a run of another recipe, which differs in ppo.lam (ppo.steps may change); name "
        f"another run.dir, or move {tmp_path} away"
    )
