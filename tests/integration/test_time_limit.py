"""run.max_hours: a run saves and exits before the limit with code 75, and the same command continues it."""

import os
import signal
import subprocess
import time

import pytest

from config import RecipeError, load
from engine.run import checkpoints, time_limit
from engine.run.time_limit import OUT_OF_TIME, TimeLimit
from ppo.train import train as train_ppo
from sft.recipe import SFT
from sft.train import PackedTrainer
from sft.train import train as train_sft
from tests.integration.test_sft import RECIPE, conversation
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import command, same, untimed, weights, write_base, write_jsonl

# So short that a run exits after every step; it always makes one.
AT_ONCE = "run.max_hours=1e-6"


@pytest.fixture(scope="module")
def ppo(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("ppo"))


@pytest.fixture(scope="module")
def sft(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    write_base(folder / "base")
    write_jsonl(folder / "train.jsonl", map(conversation, range(32)))
    (folder / "sft.yaml").write_text(RECIPE.format(folder=folder))
    return folder / "sft.yaml"


def run_ppo(setting, *overrides):
    train_ppo(recipe_of(setting, "run.save_steps=100", *overrides))


def run_sft(setting, *overrides):
    train_sft(load(SFT, setting, ["trainer.max_steps=3", "run.save_steps=100", "trainer.logging_steps=2", *overrides]))


@pytest.fixture(params=[run_ppo, run_sft], ids=["ppo", "sft"])
def stage(request):
    """Return a function that runs three steps of a stage with overrides and saves at the end only."""
    setting = request.getfixturevalue(request.param.__name__.removeprefix("run_"))
    return lambda *overrides: request.param(setting, *overrides)


def test_a_run_stopped_after_every_step_ends_like_an_uninterrupted_one(stage, tmp_path, capsys):
    one, other = tmp_path / "one", tmp_path / "other"
    stage(f"run.dir={one}")
    for step in (1, 2):
        with pytest.raises(SystemExit) as stopped:
            stage(f"run.dir={other}", AT_ONCE)
        assert stopped.value.code == OUT_OF_TIME == 75
        assert capsys.readouterr().out.endswith(
            f"{other}: run.max_hours=1e-06 is nearly over; saved checkpoint-{step}; "
            "the same command continues from there\n"
        )
        assert checkpoints.newest(other).name == f"checkpoint-{step}"
        assert not (other / "finished.json").exists()
    stage(f"run.dir={other}", AT_ONCE)  # after its last step a run finishes instead of exiting
    assert (other / "finished.json").exists()
    assert same(weights(one), weights(other))
    if "kl" in untimed(one)[0]:
        assert untimed(one) == untimed(other)
    else:  # metrics not yet logged (trainer.logging_steps=2) are logged before the exit; the last line is the summary
        assert [row["step"] for row in untimed(one)] == [2, 3, 3]
        assert [row["step"] for row in untimed(other)] == [1, 2, 3, 3]


def test_the_limit_may_change_on_resume(stage, tmp_path):
    with pytest.raises(SystemExit):
        stage(f"run.dir={tmp_path}", AT_ONCE)
    stage(f"run.dir={tmp_path}", "run.max_hours=9")
    assert (tmp_path / "finished.json").exists()


def test_a_run_exits_before_the_limit(ppo, tmp_path, monkeypatch):
    """16 seconds, of which 10 are reserved for saving."""
    began = time.time()
    monkeypatch.setattr(time_limit.psutil.Process, "create_time", lambda self: began)
    with pytest.raises(SystemExit):
        run_ppo(ppo, f"run.dir={tmp_path}", f"run.max_hours={16 / 3600}", "ppo.steps=5000")
    assert time.time() < began + 16
    assert checkpoints.step_of(checkpoints.newest(tmp_path)) > 1  # not after the first step


def test_the_margin_adds_the_longest_step_save_and_copy(monkeypatch):
    clock = iter([990.0, 1000.0, 1005.0, 1012.0, 1032.0, 1035.0])
    monkeypatch.setattr(time_limit.time, "time", lambda: next(clock))
    monkeypatch.setattr(time_limit.psutil.Process, "create_time", lambda self: 900.0)
    measured = TimeLimit(0.1)
    measured.begin()
    for name in ("step", "step", "save", "step"):  # 5, 7, 20 and 3 s
        measured.lap(name)
    measured.took("copy", 4.0)
    for now, reached in ((1250 - 31.5, False), (1250 - 30.5, True)):
        monkeypatch.setattr(time_limit.time, "time", lambda now=now: now)
        assert measured.reached is reached
    unmeasured = TimeLimit(0.1)
    monkeypatch.setattr(time_limit.time, "time", lambda: 1250 - 36.5)  # before the first checkpoint, a tenth of 360 s
    assert not unmeasured.reached
    monkeypatch.setattr(time_limit.time, "time", lambda: 1250 - 35.5)
    assert unmeasured.reached
    assert not TimeLimit(None).reached


def test_under_a_launcher_a_run_at_its_limit_exits_with_0(ppo, tmp_path):
    """The launcher would restart a rank with another exit code; the launch itself exits with 75 (test_restart.py)."""
    done = subprocess.run(
        command("ppo", ppo, f"run.dir={tmp_path}", AT_ONCE), env=os.environ | {"TORCHELASTIC_RUN_ID": "x"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert checkpoints.newest(tmp_path).name == "checkpoint-1"
    assert not (tmp_path / "finished.json").exists()


def test_a_signal_saves_a_checkpoint_of_sft(sft, tmp_path, monkeypatch, capsys):
    plain = PackedTrainer.compute_loss
    monkeypatch.setattr(
        PackedTrainer,
        "compute_loss",
        lambda *args, **more: (os.kill(os.getpid(), signal.SIGTERM), plain(*args, **more))[1],
    )
    with pytest.raises(SystemExit) as stopped:
        run_sft(sft, f"run.dir={tmp_path}")
    assert stopped.value.code == 143
    assert capsys.readouterr().out.endswith(f"{tmp_path}: saved checkpoint-1; the same command continues from there\n")
    monkeypatch.undo()
    run_sft(sft, f"run.dir={tmp_path}")
    assert [row["step"] for row in untimed(tmp_path)] == [1, 2, 3, 3]


def test_a_limit_of_0_is_refused(ppo):
    with pytest.raises(RecipeError) as error:
        recipe_of(ppo, "run.max_hours=0")
    assert str(error.value) == "run.max_hours is 0.0; it must be above 0"
