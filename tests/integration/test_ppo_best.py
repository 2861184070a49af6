"""watch.keep_best: the finished policy and value model are those of the best checkpoint, also after kills.

They are compared with a run that ends at that step. Held-out figures are replaced, so that the best step is known.
"""

import json
import math
import os
import shutil
import signal
import threading

import pytest
import torch

from engine.errors import RunError
from engine.run.card import model_card
from engine.run.checkpoint_store import local_folder
from ppo.heldout import HeldOut
from ppo.train import train
from release.checkpoint import release
from tests.support.ppo_setting import make_adapters, make_setting, recipe_of
from tests.support.processes import run_stage
from tests.support.stage_runs import same, unfinish, untimed, weights

# The setting's learning rate is constant, so a run of two steps equals the first two steps of one of five.
GOLD = "watch.gold=tests.integration.test_ppo_best:no_gold"


def no_gold(record, answer):
    return {"gold": -1.0}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture
def set_heldout(monkeypatch):
    """Return a function that sets the next held-out values; when they are used up, StopIteration ends the run."""
    plain = HeldOut.measure

    def set_values(*values):
        left = iter(values)

        def measure(*arguments):
            metrics = plain(*arguments)
            return metrics | {"heldout_gold": next(left), "heldout_score": 1.0}

        monkeypatch.setattr(HeldOut, "measure", measure)

    return set_values


def best_of(setting, run, *overrides, steps=5):
    """Return the recipe of a run with watch.keep_best."""
    return recipe_of(
        setting, f"data.heldout={setting.parent}/prompts.jsonl", GOLD, "watch.keep_best=heldout_gold", "watch.every=1",
        "run.save_steps=1", "run.keep_checkpoints=1", f"run.dir={run}", f"ppo.steps={steps}", *overrides,
    )  # fmt: skip


def names(run):
    return sorted(path.name for path in run.glob("checkpoint-*"))


def best_in(run):
    return json.loads((run / "finished.json").read_text())["best"]


@pytest.fixture(scope="module")
def two_steps(setting, tmp_path_factory):
    """Return the folder of a run that ends after two steps, without watch.keep_best."""
    folder = tmp_path_factory.mktemp("two")
    train(recipe_of(setting, f"run.dir={folder}", "ppo.steps=2", "run.save_steps=2"))
    return folder


def assert_models_of(run, other):
    for name in ("model", "value"):
        assert same(weights(run, name), weights(other, name)), name


def test_the_finished_model_is_that_of_the_best_checkpoint(setting, two_steps, tmp_path, set_heldout, capsys):
    """The earlier one of equal values; the best and the last checkpoint are kept."""
    run = tmp_path / "run"
    set_heldout(0.5, 0.9, 0.9, 0.2, 0.7)
    train(best_of(setting, run))
    assert_models_of(run, two_steps)
    assert names(run) == ["checkpoint-2", "checkpoint-5"]
    assert best_in(run) == {"step": 2, "metric": "heldout_gold", "value": 0.9, "measured": 5}
    message = "the model is that of step 2, the best of 5 by heldout_gold (0.9)"
    assert capsys.readouterr().out.rstrip().endswith(f"; {message}")
    card = model_card(run, "me/mine")
    assert f" T{message[1:]}.\n" in card
    assert "## Metrics at step 2\n" in card
    assert "| `heldout_gold` | 0.9 | 2 |" in card
    release([str(run), str(tmp_path / "released"), "step=2"])
    assert same(weights(tmp_path, "released"), weights(run))
    release([str(run), str(tmp_path / "last")])
    assert not same(weights(tmp_path, "last"), weights(run))


def test_keep_best_does_not_change_training(setting, two_steps, tmp_path, set_heldout):
    run = tmp_path / "run"
    set_heldout(0.5, 0.9)
    train(best_of(setting, run, steps=2))
    assert_models_of(run, two_steps)
    trained = [{name: row[name] for name in row if "heldout" not in name} for row in untimed(run)]
    assert trained == untimed(two_steps)
    unwatched, watched = (torch.load(folder / "checkpoint-2" / "state.pt") for folder in (two_steps, run))
    assert unwatched.keys() == {"score_normaliser", "kl_coef", "pretrain"}
    assert watched == {**unwatched, "best": {"step": 2, "value": 0.9, "measured": 2}}


def test_keep_best_with_a_local_disk(setting, two_steps, tmp_path, set_heldout):
    """The best checkpoint is kept there and in the run folder; without that disk it is read from the folder."""
    run, disk = tmp_path / "run", f"run.local_dir={tmp_path}/disk"
    set_heldout(0.5, 0.9, 0.1, 0.2)
    with pytest.raises(StopIteration):
        train(best_of(setting, run, disk))
    local = local_folder(f"{tmp_path}/disk", run)
    assert names(local) == ["checkpoint-2", "checkpoint-4"]
    for thread in threading.enumerate():
        if thread.name == "copy":
            thread.join()
    assert names(run) == ["checkpoint-2", "checkpoint-4"]
    shutil.rmtree(local)
    set_heldout(0.3)
    train(best_of(setting, run, disk))
    assert_models_of(run, two_steps)


def test_a_killed_run_resumes_with_its_best_value(setting, two_steps, tmp_path, set_heldout):
    """A value measured between checkpoints does not count, also when it is measured again after the resume."""
    run = tmp_path / "run"
    set_heldout(9.0, 0.5, 8.0)
    with pytest.raises(StopIteration):
        train(best_of(setting, run, "run.save_steps=2", steps=6))
    assert [row["step"] for row in untimed(run)] == [1, 2, 3]
    set_heldout(8.0, 0.4, 7.0)
    with pytest.raises(StopIteration):
        train(best_of(setting, run, "run.save_steps=2", steps=6))
    assert names(run) == ["checkpoint-2", "checkpoint-4"]
    set_heldout(7.0, 0.3)
    train(best_of(setting, run, "run.save_steps=2", steps=6))
    assert_models_of(run, two_steps)
    assert best_in(run) == {"step": 2, "metric": "heldout_gold", "value": 0.5, "measured": 3}


def test_a_checkpoint_written_on_a_signal_cannot_be_the_best(setting, two_steps, tmp_path, set_heldout, monkeypatch):
    """An uninterrupted run has no checkpoint at that step."""
    run = tmp_path / "run"
    set_heldout(9.0, 0.5, 8.0, 0.4)
    scripted, calls = HeldOut.measure, []

    def measure(*arguments):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return scripted(*arguments)

    monkeypatch.setattr(HeldOut, "measure", measure)
    with pytest.raises(SystemExit):
        train(best_of(setting, run, "run.save_steps=2", steps=4))
    assert names(run) == ["checkpoint-2", "checkpoint-3"]
    train(best_of(setting, run, "run.save_steps=2", steps=4))
    assert_models_of(run, two_steps)


def test_an_extended_run_keeps_its_best_and_is_refused_without_it(setting, two_steps, tmp_path, set_heldout):
    run = tmp_path / "run"
    set_heldout(0.5, 0.9, 0.1)
    train(best_of(setting, run, steps=3))
    shutil.copytree(run, tmp_path / "copy")
    set_heldout(0.2)
    train(best_of(setting, run, steps=4))
    assert names(run) == ["checkpoint-2", "checkpoint-4"]
    assert_models_of(run, two_steps)
    shutil.rmtree(tmp_path / "copy" / "checkpoint-2")
    with pytest.raises(RunError) as error:
        train(best_of(setting, tmp_path / "copy", steps=4))
    assert str(error.value) == (
        f"{tmp_path}/copy: checkpoint-2, the best so far, is missing; restore it, or name another run.dir"
    )


def test_a_run_stops_early_and_stays_finished(setting, two_steps, tmp_path, set_heldout, capsys):
    """Also if it is killed after the last checkpoint; with more patience it continues."""
    run = tmp_path / "run"
    set_heldout(0.5, 0.9, 0.1, 0.2)
    train(best_of(setting, run, "watch.patience=2", steps=9))
    line = "early stopping at step 4: no heldout_gold better than that of step 2 in 2 checkpoints\n"
    assert line in capsys.readouterr().out
    assert_models_of(run, two_steps)
    assert json.loads((run / "finished.json").read_text())["steps"] == 4
    assert best_in(run) == {"step": 2, "metric": "heldout_gold", "value": 0.9, "measured": 4}
    unfinish(run, 4)
    set_heldout()
    train(best_of(setting, run, "watch.patience=2", steps=9))
    assert line in capsys.readouterr().out
    assert_models_of(run, two_steps)
    set_heldout(0.3)
    train(best_of(setting, run, "watch.patience=3", steps=9))
    assert json.loads((run / "finished.json").read_text())["steps"] == 5
    assert_models_of(run, two_steps)


def test_without_a_finite_value_the_last_model_is_kept(setting, two_steps, tmp_path, set_heldout, capsys):
    run = tmp_path / "run"
    set_heldout(math.nan, math.nan)
    train(best_of(setting, run, steps=2))
    assert_models_of(run, two_steps)
    assert "best" not in json.loads((run / "finished.json").read_text())
    assert "warning: heldout_gold was never finite, so the model is that of the last step\n" in capsys.readouterr().out


def test_keep_best_with_adapters_of_a_shared_base(setting, tmp_path, set_heldout):
    shared = ["models=shared", *make_adapters(setting.parent)]
    train(recipe_of(setting, *shared, f"run.dir={tmp_path}/two", "ppo.steps=2"))
    set_heldout(0.5, 0.9, 0.1)
    train(best_of(setting, tmp_path / "run", *shared, steps=3))
    for name in ("model", "value"):
        one, other = (tmp_path / run / name / "adapter_model.safetensors" for run in ("run", "two"))
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("hardware", ["fsdp2", "zero2", "zero3"])
def test_sharded_ranks_finish_with_the_best_model_of_one_process(setting, two_steps, tmp_path, set_heldout, hardware):
    """Two sharded ranks make the last step, and then load the best checkpoint, which a single process has written."""
    run = tmp_path / "run"
    set_heldout(0.5, 0.9, 0.1, 0.2)
    train(best_of(setting, run, "run.keep_checkpoints=9", steps=4))
    unfinish(run, 3)
    overrides = [f"data.heldout={setting.parent}/prompts.jsonl", GOLD, "watch.keep_best=heldout_gold", "watch.every=1",
                 "run.save_steps=1", f"run.dir={run}", "ppo.steps=4"]  # fmt: skip
    run_stage("ppo", setting, *overrides, processes=2, hardware=hardware)
    assert untimed(run)[-1]["heldout_gold"] == -1.0
    assert best_in(run)["step"] == 2
    assert_models_of(run, two_steps)
