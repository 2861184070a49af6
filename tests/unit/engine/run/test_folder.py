"""A run's folder belongs to one recipe, and knows which models the run started from."""

import json

import pytest

from config import load
from engine.errors import AlreadyFinishedError, RunError
from engine.run.folder import RunFolder, differing_keys
from sft.recipe import SFT


@pytest.fixture
def recipe(tmp_path):
    """A recipe that begins from the model of a finished run, base."""
    (tmp_path / "base" / "model").mkdir(parents=True)
    finish_base(tmp_path, "2026-01-01")
    text = (
        f"stage: sft\nmodel: {{path: {tmp_path}/base/model}}\ndata: {{train: x.jsonl}}\nrun: {{dir: {tmp_path}/sft}}\n"
    )
    (tmp_path / "sft.yaml").write_text(text)
    return load(SFT, tmp_path / "sft.yaml")


def finish_base(folder, at):
    (folder / "base" / "finished.json").write_text(json.dumps({"steps": 1, "seconds": 1.0, "at": at}))


def test_a_run_is_finished_once(recipe):
    RunFolder(recipe).finish(1, 1.0)
    with pytest.raises(AlreadyFinishedError):
        RunFolder(recipe)


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_whose_base_was_trained_again_is_refused(recipe, tmp_path, finished):
    folder = RunFolder(recipe)
    if finished:
        folder.finish(1, 1.0)
    finish_base(tmp_path, "2026-01-02")
    with pytest.raises(RunError) as error:
        RunFolder(recipe)
    assert str(error.value) == (
        f"run.dir={tmp_path}/sft started from {tmp_path}/base/model, which has been trained again since; "
        f"move {tmp_path}/sft away, or name another run.dir"
    )


def test_an_evaluation_of_changed_models_is_not_finished(recipe, tmp_path):
    RunFolder(recipe, accepts_changes=True).finish(1, 1.0)
    finish_base(tmp_path, "2026-01-02")
    RunFolder(recipe, accepts_changes=True).finish(2, 1.0, "answers")
    assert json.loads((tmp_path / "sft" / "finished.json").read_text())["answers"] == 2
    with pytest.raises(AlreadyFinishedError):
        RunFolder(recipe, accepts_changes=True)


def test_a_base_that_is_gone_changes_nothing(recipe, tmp_path):
    RunFolder(recipe).finish(1, 1.0)
    (tmp_path / "base" / "finished.json").unlink()
    with pytest.raises(AlreadyFinishedError):
        RunFolder(recipe)


def test_recipes_differ_in_dotted_keys_but_not_in_those_that_may_change():
    old = "stage: sft\nmodel: {path: a, dtype: auto}\nrun: {dir: x, seed: 0, max_hours: 1}\ntrainer: {}\n"
    new = "stage: sft\nmodel: {path: b, dtype: auto}\nrun: {dir: y, seed: 1, max_hours: 2}\ntrainer: {lr: 1}\n"
    assert differing_keys(old, new) == ["model.path", "run.seed", "trainer", "trainer.lr"]
    assert differing_keys(old, old.replace("sft", "reward")) == ["stage"]


def test_a_recipe_of_an_earlier_version_differs_not_by_its_missing_stage(recipe, tmp_path):
    assert differing_keys("run: {seed: 0}\n", "stage: sft\nrun: {seed: 0}\n") == []
    assert differing_keys("run: {seed: 0}\n", "stage: sft\nrun: {seed: 1}\n") == ["run.seed"]
    RunFolder(recipe)
    written = tmp_path / "sft" / "recipe.yaml"
    whole = written.read_text()
    written.write_text(whole.removeprefix("stage: sft\n"))
    RunFolder(recipe)
    assert written.read_text() == whole


@pytest.mark.parametrize("stage", ["stage: reward\n", ""])
def test_changes_are_accepted_within_a_stage_only(recipe, tmp_path, stage):
    RunFolder(recipe, accepts_changes=True)
    written = tmp_path / "sft" / "recipe.yaml"
    other = written.read_text().replace("seed: 0", "seed: 1")
    written.write_text(other)
    RunFolder(recipe, accepts_changes=True)
    written.write_text(other.replace("stage: sft\n", stage))
    with pytest.raises(RunError, match="holds a run of another recipe, which differs in"):
        RunFolder(recipe, accepts_changes=True)
