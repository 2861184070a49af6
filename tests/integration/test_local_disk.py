"""run.local_dir: checkpoints are written to a local disk and copied; a run resumes from the newest complete one."""

import shutil
import threading
from pathlib import Path

import pytest

import ppo.train
from config import RecipeError, load
from engine.errors import RunError
from engine.files import durable
from engine.run import checkpoints
from engine.run.checkpoint_store import OWNER_FILE, CheckpointStore, local_folder
from engine.run.folder import RunFolder
from ppo.train import train
from reward.recipe import Reward
from reward.train import PairTrainer
from reward.train import train as train_reward
from tests.integration.test_reward import RECIPE, pair
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import same, untimed, weights, write_base, write_jsonl

STEPS = ["ppo.steps=6", "run.save_steps=1"]


class KilledError(BaseException):
    """Stands for a kill; the run cannot catch it."""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    """Return the folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(recipe_of(setting, f"run.dir={folder}", *STEPS))
    return folder


@pytest.fixture
def folders(tmp_path):
    """Return the run folder, its folder on the local disk, and the overrides for both."""
    run, disk = tmp_path / "run", tmp_path / "disk"
    return run, local_folder(str(disk), run), [f"run.dir={run}", f"run.local_dir={disk}", *STEPS]


def names(place):
    return sorted(path.name for path in place.glob("*checkpoint-*"))


def wait_for_copies():
    for thread in threading.enumerate():
        if thread.name == "copy":
            thread.join()


def run_killed_in(setting, step, *overrides):
    """Run until a step and kill the run there; copies in progress are finished first."""
    plain, calls = ppo.train.assess, iter(range(1, 99))

    def assess(*arguments):
        if next(calls) == step:
            wait_for_copies()
            raise KilledError
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo.train, "assess", assess)
        with pytest.raises(KilledError):
            train(recipe_of(setting, *overrides))


def assert_same_end(run, whole):
    assert untimed(run) == untimed(whole)
    assert same(weights(run), weights(whole))
    assert same(weights(run, "value"), weights(whole, "value"))


def test_checkpoints_are_on_both_disks_and_the_local_folder_is_removed_at_the_end(setting, whole, folders):
    run, local, overrides = folders
    run_killed_in(setting, 4, *overrides)
    assert names(local) == names(run) == ["checkpoint-2", "checkpoint-3"]  # run.keep_checkpoints is 2 in both
    for name in ("checkpoint-2", "checkpoint-3"):
        assert {path.name for path in (local / name).iterdir()} == {path.name for path in (run / name).iterdir()}
        assert (run / name / "COMPLETE").exists()
    train(recipe_of(setting, *overrides))
    assert names(run) == ["checkpoint-5", "checkpoint-6"]
    assert not local.exists()
    assert not (run / OWNER_FILE).exists()
    assert_same_end(run, whole)


@pytest.mark.parametrize("lost", ["the local disk", "the run folder's checkpoints"])
def test_a_run_resumes_from_either_disk(setting, whole, folders, capsys, lost):
    run, local, overrides = folders
    run_killed_in(setting, 4, *overrides)
    for folder in [local] if lost == "the local disk" else run.glob("checkpoint-*"):
        shutil.rmtree(folder)
    capsys.readouterr()
    train(recipe_of(setting, *overrides))
    assert f"{run}: continuing from checkpoint-3\n" in capsys.readouterr().out
    assert_same_end(run, whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("at", ["a file", "the seal", "the rename"])
def test_a_checkpoint_whose_copy_was_killed_is_copied_again(setting, whole, folders, monkeypatch, capsys, at):
    """The copy of checkpoint-3 is killed at `at`, and the run in its step 4."""
    run, _, overrides = folders
    copy, seal, rename = durable.copy_tree, checkpoints.seal, Path.rename

    def interrupted(where, plain, target):
        def function(*arguments):
            if (
                where == at
                and Path(arguments[target]).name == ".checkpoint-3.partial"
                and run in arguments[target].parents
            ):
                if where == "a file":
                    (arguments[target] / "model.safetensors").write_bytes(b"half")
                raise SystemExit  # ends the thread without a message
            return plain(*arguments)

        return function

    with monkeypatch.context() as patch:
        patch.setattr(durable, "copy_tree", interrupted("a file", copy, 1))
        patch.setattr(checkpoints, "seal", interrupted("the seal", seal, 0))
        patch.setattr(Path, "rename", interrupted("the rename", rename, 0))
        run_killed_in(setting, 4, *overrides)
    assert names(run) == [".checkpoint-3.partial", "checkpoint-1", "checkpoint-2"]
    run_killed_in(setting, 1, *overrides)  # killed before the next checkpoint; the copy has been repeated at the start
    assert names(run) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    capsys.readouterr()
    train(recipe_of(setting, *overrides))
    assert f"{run}: continuing from checkpoint-3\n" in capsys.readouterr().out
    assert names(run) == ["checkpoint-5", "checkpoint-6"]
    assert_same_end(run, whole)


def test_a_copy_that_fails_stops_the_run_with_the_reason(setting, folders, monkeypatch):
    run, _, overrides = folders

    def full(source, target):
        (target / "weights").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable, "copy_tree", full)
        with pytest.raises(RunError) as error:
            train(recipe_of(setting, *overrides))
    assert str(error.value) == (
        f"{run}/checkpoint-1 cannot be copied from run.local_dir ([Errno 28] No space left on device); make room or "
        "fix the folder's permissions, then the same command continues from checkpoint-2"
    )
    assert names(run) == []  # an incomplete copy would take up space
    train(recipe_of(setting, *overrides))
    assert names(run) == ["checkpoint-5", "checkpoint-6"]


def test_checkpoints_of_an_earlier_run_on_the_local_disk_are_ignored(setting, whole, folders):
    """The run folder was removed to start over, or the run has continued without the local disk since."""
    run, local, overrides = folders
    run_killed_in(setting, 3, *overrides)
    assert names(local) == ["checkpoint-1", "checkpoint-2"]
    shutil.rmtree(run)
    run_killed_in(setting, 2, *overrides)
    assert names(local) == ["checkpoint-1"]
    run_killed_in(setting, 3, *overrides, "run.local_dir=null")  # without a local disk it resumes from the copy
    assert names(run) == ["checkpoint-2", "checkpoint-3"]
    train(recipe_of(setting, *overrides))
    assert_same_end(run, whole)


def test_the_best_checkpoint_of_a_reward_model_is_kept_on_both_disks(tmp_path, monkeypatch):
    """With reward.keep_best; without the local disk the copy is loaded."""
    write_base(tmp_path / "base")
    write_jsonl(tmp_path / "pairs.jsonl", map(pair, range(32)))
    (tmp_path / "rm.yaml").write_text(RECIPE.format(folder=tmp_path))
    keep = [f"data.eval={tmp_path}/pairs.jsonl", "reward.keep_best=true", "run.save_steps=1", "trainer.max_steps=5",
            "run.keep_checkpoints=1"]  # fmt: skip

    def run(name, *overrides):
        train_reward(load(Reward, tmp_path / "rm.yaml", [f"run.dir={tmp_path}/{name}", *keep, *overrides]))

    plain, accuracies = PairTrainer.log, iter([0.5, 0.9, 0.6, 0.7, 0.8] * 3)

    def log(self, logs, *rest):
        if "eval_accuracy" in logs:
            logs["eval_accuracy"] = next(accuracies)
        return plain(self, logs, *rest)

    monkeypatch.setattr(PairTrainer, "log", log)
    run("one")
    accuracies = iter([0.5, 0.9, 0.6])
    disk = f"run.local_dir={tmp_path}/disk"
    with pytest.raises(StopIteration):
        run("other", disk)
    wait_for_copies()
    local = local_folder(f"{tmp_path}/disk", tmp_path / "other")
    for place in (local, tmp_path / "other"):
        assert names(place) == ["checkpoint-2", "checkpoint-3"]
    shutil.rmtree(local)
    accuracies = iter([0.7, 0.8])
    run("other", disk)
    assert same(weights(tmp_path / "one"), weights(tmp_path / "other"))


@pytest.mark.parametrize("place", ["", " ", "RUN", "RUN/checkpoints"])
def test_a_local_dir_that_is_empty_or_in_the_run_folder_is_refused(setting, tmp_path, place):
    named = place.replace("RUN", str(tmp_path))
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, f"run.dir={tmp_path}", f"run.local_dir='{named}'")
    assert str(error.value) == (
        f"run.local_dir is {named.strip() or repr('')}; name a folder on another disk than run.dir, or leave it out"
    )


def test_a_local_dir_that_cannot_be_written_stops_the_run_at_once(setting, tmp_path):
    (tmp_path / "disk").touch()
    with pytest.raises(RunError) as error:
        train(recipe_of(setting, f"run.dir={tmp_path}/run", f"run.local_dir={tmp_path}/disk"))
    assert str(error.value) == (
        f"run.local_dir: {local_folder(f'{tmp_path}/disk', tmp_path / 'run')} cannot be written "
        "(Not a directory); name another folder"
    )


def test_local_dir_on_several_machines_is_refused(setting, tmp_path, monkeypatch):
    recipe = recipe_of(setting, f"run.dir={tmp_path}/run", f"run.local_dir={tmp_path}/disk")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(RunError) as error:
        CheckpointStore(RunFolder(recipe), recipe.run)
    assert str(error.value) == "run.local_dir works on one machine only, and this run is on several; leave it out"
