"""sft.keep_best and sft.patience: the model is that of the best checkpoint, and the run ends early.

What data.eval measures is replaced, so that the best is known. The oracle is a run that ends at that step.
"""

import json

import pytest

from config import load
from sft.recipe import SFT
from sft.train import PackedTrainer, train
from tests.integration.test_sft import RECIPE, conversation
from tests.support.stage_runs import same, unfinish, untimed, weights, write_base, write_jsonl


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft-best")
    write_base(folder / "base")
    write_jsonl(folder / "train.jsonl", map(conversation, range(32)))
    (folder / "sft.yaml").write_text(RECIPE.format(folder=folder))
    return folder


@pytest.fixture
def measured(monkeypatch):
    """A function that sets the losses that the next evaluations find."""

    def set_values(*values):
        left = iter(values)

        def evaluate(self, *_, **__):
            metrics = {"eval_loss": next(left)}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        monkeypatch.setattr(PackedTrainer, "evaluate", evaluate)

    return set_values


def run(setting, run_dir, *overrides):
    train(load(SFT, setting / "sft.yaml", [f"run.dir={run_dir}", *overrides]))


def best_of(setting, run_dir, *overrides):
    keep = [f"data.eval={setting}/train.jsonl", "sft.keep_best=true", "run.save_steps=1", "run.keep_checkpoints=1"]
    run(setting, run_dir, *keep, "trainer.max_steps=9", *overrides)


def finished(run_dir):
    return json.loads((run_dir / "finished.json").read_text())


def test_it_keeps_the_best_ends_early_and_stays_ended(setting, tmp_path, measured, capsys):
    """Also if it is killed after its last checkpoint; with more patience it continues."""
    run(setting, tmp_path / "two", "trainer.max_steps=2")
    mine = tmp_path / "run"
    measured(3.0, 1.0, 2.0, 1.0)
    best_of(setting, mine, "sft.patience=2")
    said = "early stopping at step 4: no eval_loss better than that of step 2 in 2 checkpoints\n"
    assert said in capsys.readouterr().out
    assert same(weights(mine), weights(tmp_path / "two"))
    assert finished(mine)["steps"] == 4
    assert finished(mine)["best"] == {"step": 2, "metric": "eval_loss", "value": 1.0, "measured": 4}
    assert {path.name for path in mine.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    rows = untimed(mine)

    unfinish(mine, 4)
    measured()
    best_of(setting, mine, "sft.patience=2")
    assert said in capsys.readouterr().out
    assert untimed(mine) == rows
    assert same(weights(mine), weights(tmp_path / "two"))

    measured(0.5, 0.6, 0.7, 0.8)
    best_of(setting, mine, "sft.patience=3")
    assert finished(mine)["steps"] == 8
    assert finished(mine)["best"] == {"step": 5, "metric": "eval_loss", "value": 0.5, "measured": 8}


def test_without_patience_it_takes_all_steps(setting, tmp_path, measured):
    measured(1.0, *[2.0] * 8)
    best_of(setting, tmp_path)
    assert finished(tmp_path)["steps"] == 9
    assert finished(tmp_path)["best"]["step"] == 1


def test_killed_after_its_last_step_it_trains_no_other(setting, tmp_path):
    """The last step is in the middle of an epoch, so there would be rows left."""
    run(setting, tmp_path, "trainer.max_steps=2", "trainer.per_device_train_batch_size=2")
    rows, before = untimed(tmp_path), weights(tmp_path)
    unfinish(tmp_path, 2)
    run(setting, tmp_path, "trainer.max_steps=2", "trainer.per_device_train_batch_size=2")
    assert untimed(tmp_path) == rows
    assert same(weights(tmp_path), before)
