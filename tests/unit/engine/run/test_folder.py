"""A run folder belongs to one recipe, its models and its data; what may change and what is refused."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from datasets import Dataset

from config import load
from engine.data.report import Report
from engine.errors import AlreadyFinishedError, RunError
from engine.run import checkpoints
from engine.run.folder import RunFolder, commit, package_version, plumbline_version
from sft.recipe import SFT
from tests.support.paths import ROOT


@pytest.fixture
def recipe(tmp_path):
    """Return a recipe that starts from the model of a finished run, base."""
    (tmp_path / "base" / "model").mkdir(parents=True)
    finish_base(tmp_path, "2026-01-01")
    text = (
        f"stage: sft\nmodel: {{path: {tmp_path}/base/model}}\ndata: {{train: x.jsonl}}\nrun: {{dir: {tmp_path}/sft}}\n"
    )
    (tmp_path / "sft.yaml").write_text(text)
    return load(SFT, tmp_path / "sft.yaml")


def finish_base(folder, at):
    (folder / "base" / "finished.json").write_text(json.dumps({"steps": 1, "seconds": 1.0, "at": at}))


def test_a_finished_run_is_not_run_again(recipe):
    RunFolder(recipe).finish(1, 1.0)
    with pytest.raises(AlreadyFinishedError):
        RunFolder(recipe)


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_whose_base_was_retrained_is_refused(recipe, tmp_path, finished):
    folder = RunFolder(recipe)
    begin(folder.path)
    if finished:
        folder.finish(1, 1.0)
    finish_base(tmp_path, "2026-01-02")
    with pytest.raises(RunError) as error:
        RunFolder(recipe)
    assert str(error.value) == (
        f"run.dir={tmp_path}/sft started from {tmp_path}/base/model, which has been retrained since; "
        f"move {tmp_path}/sft away, or name another run.dir"
    )


def test_an_evaluation_of_changed_models_runs_again(recipe, tmp_path):
    RunFolder(recipe, accepts_changes=True).finish(1, 1.0)
    finish_base(tmp_path, "2026-01-02")
    RunFolder(recipe, accepts_changes=True).finish(2, 1.0, "answers")
    assert json.loads((tmp_path / "sft" / "finished.json").read_text())["answers"] == 2
    with pytest.raises(AlreadyFinishedError):
        RunFolder(recipe, accepts_changes=True)


def test_a_missing_base_is_not_a_changed_one(recipe, tmp_path):
    RunFolder(recipe).finish(1, 1.0)
    (tmp_path / "base" / "finished.json").unlink()
    with pytest.raises(AlreadyFinishedError):
        RunFolder(recipe)


def begin(folder):
    """Write a line of metrics, as the first step does."""
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')


def test_a_recipe_of_an_earlier_version_may_lack_its_stage(recipe, tmp_path):
    RunFolder(recipe)
    begin(tmp_path / "sft")
    written = tmp_path / "sft" / "recipe.yaml"
    whole = written.read_text()
    written.write_text(whole.removeprefix("stage: sft\n"))
    RunFolder(recipe)
    assert written.read_text() == whole


def test_a_run_that_failed_before_its_first_step_accepts_a_corrected_recipe(recipe, tmp_path):
    RunFolder(recipe)
    for name in ("metrics.jsonl", "rollouts.jsonl", "warnings.jsonl"):  # opened, but still empty
        (tmp_path / "sft" / name).touch()
    finish_base(tmp_path, "2026-01-02")
    corrected = load(SFT, tmp_path / "sft.yaml", ["data.max_length=64", "run.seed=3"])
    RunFolder(corrected)
    assert "max_length: 64" in (tmp_path / "sft" / "recipe.yaml").read_text()
    begin(tmp_path / "sft")
    with pytest.raises(RunError) as error:
        RunFolder(recipe)
    assert str(error.value) == (
        f"run.dir={tmp_path}/sft contains a run of another recipe, which differs in data.max_length, run.seed; name "
        f"another run.dir, or move {tmp_path}/sft away"
    )
    RunFolder(load(SFT, tmp_path / "sft.yaml", [f"run.dir={tmp_path}/other"]))
    (tmp_path / "sft").rename(tmp_path / "away")
    RunFolder(recipe)


def test_a_model_that_is_not_from_a_run_is_not_overwritten(recipe, tmp_path):
    other = load(SFT, tmp_path / "sft.yaml", [f"run.dir={tmp_path}/base"])  # the folder of the base
    with pytest.raises(RunError) as error:
        RunFolder(other)
    assert str(error.value) == (
        f"run.dir={tmp_path}/base contains model/, which is not from a run and would be overwritten; name another "
        "run.dir"
    )
    assert not (tmp_path / "base" / "recipe.yaml").exists()


@pytest.mark.parametrize("name", ["data.json", "metrics.jsonl"])
def test_files_that_are_not_from_a_run_are_not_overwritten(recipe, tmp_path, name):
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / name).write_text("[1]")
    with pytest.raises(RunError) as error:
        RunFolder(recipe)
    assert str(error.value) == (
        f"run.dir={tmp_path}/sft contains {name}, which is not from a run and would be overwritten; name another "
        "run.dir"
    )
    assert [path.name for path in (tmp_path / "sft").iterdir()] == [name]


def test_the_error_lists_differing_keys_and_those_that_may_change(recipe, tmp_path):
    RunFolder(recipe)
    begin(tmp_path / "sft")
    other = load(SFT, tmp_path / "sft.yaml", ["run.seed=1", "run.save_steps=7", "trainer.max_steps=9"])
    with pytest.raises(RunError) as error:
        RunFolder(other)
    assert str(error.value) == (
        f"run.dir={tmp_path}/sft contains a run of another recipe, which differs in run.seed, trainer.max_steps "
        "(trainer.lr_scheduler_type=linear depends on the last step) (run.save_steps may change); name another "
        f"run.dir, or move {tmp_path}/sft away"
    )


def test_the_error_for_a_finished_run_names_how_to_train_its_model_further(recipe, tmp_path):
    folder = RunFolder(load(SFT, tmp_path / "sft.yaml", ["trainer.num_train_epochs=2"]))
    begin(folder.path)
    longer = load(SFT, tmp_path / "sft.yaml", ["trainer.num_train_epochs=9"])
    with pytest.raises(RunError, match="contains a run of another recipe"):
        RunFolder(longer)
    folder.finish(1, 1.0)
    with pytest.raises(RunError) as error:
        RunFolder(longer)
    assert str(error.value) == (
        f"run.dir={tmp_path}/sft is finished and cannot become longer: trainer.num_train_epochs "
        "(trainer.lr_scheduler_type=linear depends on the last step); train its model further in a run of its own: "
        f"model.path={tmp_path}/sft/model run.dir=ANOTHER"
    )
    with pytest.raises(RunError, match="contains a run of another recipe"):
        RunFolder(load(SFT, tmp_path / "sft.yaml", ["trainer.num_train_epochs=9", "run.seed=1"]))


def test_a_moved_run_resumes_under_its_new_name(recipe, tmp_path):
    """As a resumed run on a full disk is advised to do."""
    save(RunFolder(recipe).path, 3)
    (tmp_path / "sft").rename(tmp_path / "moved")
    moved = load(SFT, tmp_path / "sft.yaml", [f"run.dir={tmp_path}/moved"])
    assert checkpoints.find_resumable(moved, RunFolder(moved).path) == tmp_path / "moved" / "checkpoint-3"


def save(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoints.begin(checkpoint)
    checkpoints.seal(checkpoint, (folder / "recipe.yaml").read_text(), step)


def test_a_longer_run_of_the_same_recipe_is_not_finished(recipe, tmp_path):
    constant = ["trainer.lr_scheduler_type=constant"]
    RunFolder(load(SFT, tmp_path / "sft.yaml", [*constant, "trainer.max_steps=2"])).finish(2, 1.0)
    longer = load(SFT, tmp_path / "sft.yaml", [*constant, "trainer.max_steps=4"])
    with pytest.raises(RunError) as error:
        RunFolder(longer)
    assert str(error.value) == (
        f"run.dir={tmp_path}/sft is finished, and no checkpoint is left from which a longer run could resume; restore "
        "the last one, or name another run.dir"
    )
    save(tmp_path / "sft", 2)
    assert RunFolder(longer).finished.exists()  # it stays until the first step, since the run may still be refused
    RunFolder(longer).finish(4, 1.0)
    save(tmp_path / "sft", 4)
    with pytest.raises(AlreadyFinishedError):
        RunFolder(longer)
    (tmp_path / "sft" / "recipe.yaml").unlink()  # the checkpoint has the recipe as well
    with pytest.raises(RunError, match=r"differs in trainer\.max_steps \(it may only grow\)"):
        RunFolder(load(SFT, tmp_path / "sft.yaml", [*constant, "trainer.max_steps=3"]))


ROWS = [{"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [3], "labels": [3]}]


@pytest.mark.parametrize("rows", [[*ROWS, ROWS[0]], ROWS[::-1], [ROWS[0], ROWS[0] | {"labels": [1, 2]}]])
def test_changed_data_is_refused_when_a_run_resumes(recipe, tmp_path, rows):
    def keep(rows):
        RunFolder(recipe).keep_report("train", Dataset.from_list(rows), Report(read=len(rows), kept=len(rows)))

    keep(rows)  # before the first step data may change
    keep(ROWS)
    begin(tmp_path / "sft")
    keep(ROWS)
    before = (tmp_path / "sft" / "data.json").read_text()
    with pytest.raises(RunError) as error:
        keep(rows)
    assert str(error.value) == (
        f"data.train has changed since {tmp_path}/sft was started (2 records kept then, {len(rows)} now); restore the "
        "data, or name another run.dir"
    )
    keep(ROWS)
    other = RunFolder(load(SFT, tmp_path / "sft.yaml", [f"run.dir={tmp_path}/other"]))
    other.keep_report("train", Dataset.from_list(rows), Report(read=len(rows), kept=len(rows)))
    assert (tmp_path / "sft" / "data.json").read_text() == before


@pytest.mark.parametrize("stage", ["stage: reward\n", ""])
def test_changes_are_accepted_within_a_stage_only(recipe, tmp_path, stage):
    RunFolder(recipe, accepts_changes=True)
    begin(tmp_path / "sft")
    written = tmp_path / "sft" / "recipe.yaml"
    other = written.read_text().replace("seed: 0", "seed: 1")
    written.write_text(other)
    RunFolder(recipe, accepts_changes=True)
    written.write_text(other.replace("stage: sft\n", stage))
    with pytest.raises(RunError, match="contains a run of another recipe, which differs in"):
        RunFolder(recipe, accepts_changes=True)


def test_the_environment_has_the_commit(recipe, tmp_path, monkeypatch):
    """Of the code, not of the working directory; without git there is none."""
    checkout = tmp_path / "checkout"
    git = ["git", "-C", str(checkout), "-c", "user.name=n", "-c", "user.email=e"]
    checkout.mkdir()
    (checkout / "code.py").write_text("1")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "v1"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    monkeypatch.setattr("engine.run.folder.PROJECT", checkout / "pyproject.toml")
    assert len(commit()) >= 7
    assert head.startswith(commit())
    (checkout / "code.py").write_text("2")
    RunFolder(recipe)
    found = json.loads((tmp_path / "sft" / "environment.json").read_text())["commit"]
    assert re.fullmatch(rf"{head[:7]}\w*-dirty", found)
    monkeypatch.setattr("engine.run.folder.PROJECT", Path("/pyproject.toml"))
    assert commit() is None


def test_the_environment_has_plumblines_version(recipe, tmp_path, monkeypatch):
    RunFolder(recipe)
    packages = json.loads((tmp_path / "sft" / "environment.json").read_text())["packages"]
    (version,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages["plumbline"] == version
    assert list(packages)[:2] == ["plumbline", "torch"]
    monkeypatch.setattr("engine.run.folder.PROJECT", tmp_path / "pyproject.toml")
    assert plumbline_version() == package_version("plumbline")
