"""A run's folder knows which models the run began from."""

import json

import pytest

from config import load
from engine.errors import AlreadyFinishedError, RunError
from engine.run.folder import RunFolder
from sft.recipe import SFT


@pytest.fixture
def recipe(tmp_path):
    """A recipe that begins from the model of a finished run, base."""
    (tmp_path / "base" / "model").mkdir(parents=True)
    finish_base(tmp_path, "2026-01-01")
    text = f"model: {{path: {tmp_path}/base/model}}\ndata: {{train: x.jsonl}}\nrun: {{dir: {tmp_path}/sft}}\n"
    (tmp_path / "sft.yaml").write_text(text)
    return load(SFT, tmp_path / "sft.yaml")


def finish_base(folder, at):
    (folder / "base" / "finished.json").write_text(json.dumps({"steps": 1, "seconds": 1.0, "at": at}))


def test_a_run_is_finished_once(recipe):
    RunFolder(recipe).finish(1, 1.0)
    with pytest.raises(AlreadyFinishedError):
        RunFolder(recipe)


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_whose_base_was_made_anew_is_refused(recipe, tmp_path, finished):
    folder = RunFolder(recipe)
    if finished:
        folder.finish(1, 1.0)
    finish_base(tmp_path, "2026-01-02")
    with pytest.raises(RunError) as error:
        RunFolder(recipe)
    assert str(error.value) == (
        f"run.dir={tmp_path}/sft began from {tmp_path}/base/model, which has been made anew since; "
        f"move {tmp_path}/sft away, or name another run.dir"
    )


def test_what_is_repeatable_is_done_again_then(recipe, tmp_path):
    RunFolder(recipe, repeatable=True).finish(1, 1.0)
    finish_base(tmp_path, "2026-01-02")
    RunFolder(recipe, repeatable=True).finish(2, 1.0, "answers")
    assert json.loads((tmp_path / "sft" / "finished.json").read_text())["answers"] == 2
    with pytest.raises(AlreadyFinishedError):
        RunFolder(recipe, repeatable=True)


def test_a_base_that_is_gone_changes_nothing(recipe, tmp_path):
    RunFolder(recipe).finish(1, 1.0)
    (tmp_path / "base" / "finished.json").unlink()
    with pytest.raises(AlreadyFinishedError):
        RunFolder(recipe)
