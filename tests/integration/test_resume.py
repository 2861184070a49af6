"""Resume a run with other values of keys that do not affect its result, or with more steps."""

import shutil

import pytest

from config import RecipeError, load
from engine.errors import AlreadyFinishedError
from engine.files.jsonl import read
from ppo.train import train
from sft.recipe import SFT
from sft.train import train as train_sft
from tests.integration.test_sft import RECIPE, conversation
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import same, unfinish, untimed, weights, write_base, write_jsonl


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    """Return the folder of an uninterrupted run of four steps."""
    folder = tmp_path_factory.mktemp("whole")
    train(recipe_of(setting, f"run.dir={folder}", "ppo.steps=4", "run.save_steps=1"))
    return folder


def test_keys_that_do_not_affect_the_result_may_change_on_resume(setting, whole, tmp_path):
    run = tmp_path / "run"
    train(recipe_of(setting, f"run.dir={run}", "ppo.steps=4", "run.save_steps=1"))
    unfinish(run, 3)
    changed = ["run.save_steps=3", "run.keep_checkpoints=5", "ppo.gradient_checkpointing=true", "ppo.log_samples=0",
               "watch.show_samples_every=1", "watch.kl=99"]  # fmt: skip
    train(recipe_of(setting, f"run.dir={run}", "ppo.steps=4", *changed))
    assert untimed(run) == untimed(whole)
    for name in ("model", "value"):
        assert same(weights(run, name), weights(whole, name))
    assert "keep_checkpoints: 5" in (run / "recipe.yaml").read_text()


def test_memory_keys_change_the_result_by_rounding_only(setting, whole, tmp_path):
    run = tmp_path / "run"
    train(recipe_of(setting, f"run.dir={run}", "ppo.steps=4", "run.save_steps=1"))
    unfinish(run, 3)
    train(recipe_of(setting, f"run.dir={run}", "ppo.steps=4", "sampling.batch_size=2", "ppo.micro_batch_tokens=64",
                    "model.attention=sdpa"))  # fmt: skip
    for before, after in zip(untimed(whole), untimed(run), strict=True):
        assert after == pytest.approx(before, rel=1e-3, abs=1e-4)


def test_an_extended_run_ends_like_one_with_that_many_steps(setting, whole, tmp_path):
    run = tmp_path / "run"
    train(recipe_of(setting, f"run.dir={run}", "ppo.steps=2"))
    train(recipe_of(setting, f"run.dir={run}", "ppo.steps=4"))
    assert untimed(run) == untimed(whole)
    for name in ("model", "value"):
        assert same(weights(run, name), weights(whole, name))


def test_an_extension_that_fails_before_its_first_step_leaves_the_run_finished(setting, whole, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train(recipe_of(setting, f"run.dir={run}", "ppo.steps=4"))
    longer = recipe_of(setting, f"run.dir={run}", "ppo.steps=8")
    with monkeypatch.context() as patch:
        patch.delattr("ppo.train.load_data")
        with pytest.raises(NameError):
            train(longer)
    with pytest.raises(AlreadyFinishedError):
        train(recipe_of(setting, f"run.dir={run}", "ppo.steps=4"))
    assert untimed(run) == untimed(whole)
    assert same(weights(run), weights(whole))


def test_copies_of_checkpoints_are_neither_used_nor_removed(setting, whole, tmp_path):
    """The run resumes beside copies of a checkpoint, and writes to none of them."""
    run = tmp_path / "run"
    train(recipe_of(setting, f"run.dir={run}", "ppo.steps=4", "run.save_steps=1", "run.keep_checkpoints=9"))
    unfinish(run, 1)
    for copy in ("checkpoint-best", "checkpoint-1.bak", "checkpoint-3"):
        shutil.copytree(run / "checkpoint-1", run / copy)
    before = sorted(path.name for path in (run / "checkpoint-1").rglob("*"))
    train(recipe_of(setting, f"run.dir={run}", "ppo.steps=4", "run.save_steps=1", "run.keep_checkpoints=1"))
    assert untimed(run) == untimed(whole)
    names = {path.name for path in run.glob("*checkpoint-*")}
    assert names == {"checkpoint-4", "checkpoint-best", "checkpoint-1.bak", "checkpoint-3.other-1"}
    for copy in names - {"checkpoint-4"}:
        assert sorted(path.name for path in (run / copy).rglob("*")) == before


def test_a_run_that_failed_before_its_first_step_accepts_another_recipe(setting, tmp_path):
    run = f"run.dir={tmp_path}/run"
    with pytest.raises(RecipeError):  # a prompt is longer than the limit
        train(recipe_of(setting, run, "ppo.steps=1", "data.max_prompt_tokens=16", "data.too_long=error"))
    train(recipe_of(setting, run, "ppo.steps=1"))
    assert len(read(tmp_path / "run" / "metrics.jsonl")) == 1


@pytest.fixture
def sft(tmp_path):
    """Return a function that runs SFT with overrides in a folder of the given name."""
    write_base(tmp_path / "base")
    write_jsonl(tmp_path / "train.jsonl", map(conversation, range(24)))
    (tmp_path / "sft.yaml").write_text(RECIPE.format(folder=tmp_path))

    def sft(name, *overrides):
        train_sft(load(SFT, tmp_path / "sft.yaml", [f"run.dir={tmp_path}/{name}", *overrides]))
        return tmp_path / name

    return sft


def test_sft_resumes_with_other_keys_and_more_steps(sft):
    whole, run = sft("whole", "trainer.max_steps=6"), sft("run", "trainer.max_steps=3")
    changed = ["run.save_steps=5", "trainer.logging_steps=2", "run.keep_checkpoints=9"]
    sft("run", "trainer.max_steps=6", *changed)
    assert same(weights(run), weights(whole))
    assert {"checkpoint-5", "checkpoint-6"} <= {path.name for path in run.glob("checkpoint-*")}
    assert not (run / "README.md").exists()
