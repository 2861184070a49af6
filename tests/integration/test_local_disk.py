"""run.local_dir: checkpoints are written on a local disk and copied on, and the newest whole one of both counts."""

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
    """What stands for a kill: nothing that the run could catch."""


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def whole(setting, tmp_path_factory):
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    train(recipe_of(setting, f"run.dir={folder}", *STEPS))
    return folder


@pytest.fixture
def places(tmp_path):
    """The run folder, this run's folder on the local disk, and the overrides that say so."""
    run, disk = tmp_path / "run", tmp_path / "disk"
    return run, local_folder(str(disk), run), [f"run.dir={run}", f"run.local_dir={disk}", *STEPS]


def names(place):
    return sorted(path.name for path in place.glob("*checkpoint-*"))


def until_copied():
    for thread in threading.enumerate():
        if thread.name == "copy":
            thread.join()


def killed(setting, step, *overrides):
    """A run that ends in a step; what was being copied may come to its end first."""
    plain, calls = ppo.train.assess, iter(range(1, 99))

    def assess(*arguments):
        if next(calls) == step:
            until_copied()
            raise KilledError
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo.train, "assess", assess)
        with pytest.raises(KilledError):
            train(recipe_of(setting, *overrides))


def ends_like(run, whole):
    assert untimed(run) == untimed(whole)
    assert same(weights(run), weights(whole))
    assert same(weights(run, "value"), weights(whole, "value"))


def test_checkpoints_are_in_both_places_and_the_local_disk_is_given_back(setting, whole, places):
    run, local, overrides = places
    killed(setting, 4, *overrides)
    assert names(local) == names(run) == ["checkpoint-2", "checkpoint-3"]  # run.keep_checkpoints is 2 in both
    for name in ("checkpoint-2", "checkpoint-3"):
        assert {path.name for path in (local / name).iterdir()} == {path.name for path in (run / name).iterdir()}
        assert (run / name / "COMPLETE").exists()
    train(recipe_of(setting, *overrides))
    assert names(run) == ["checkpoint-5", "checkpoint-6"]
    assert not local.exists()
    assert not (run / OWNER_FILE).exists()
    ends_like(run, whole)


@pytest.mark.parametrize("lost", ["the local disk", "the run folder's checkpoints"])
def test_either_place_is_enough(setting, whole, places, capsys, lost):
    run, local, overrides = places
    killed(setting, 4, *overrides)
    for folder in [local] if lost == "the local disk" else run.glob("checkpoint-*"):
        shutil.rmtree(folder)
    capsys.readouterr()
    train(recipe_of(setting, *overrides))
    assert f"{run}: continuing from checkpoint-3\n" in capsys.readouterr().out
    ends_like(run, whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("at", ["a file", "the mark", "the rename"])
def test_a_kill_while_it_is_copied_is_harmless(setting, whole, places, monkeypatch, capsys, at):
    """The copy of checkpoint-3 comes to an end where the kill strikes; the run is killed in its step 4."""
    run, _, overrides = places
    copy, seal, rename = durable.copy_tree, checkpoints.seal, Path.rename

    def struck(where, plain, target):
        def function(*arguments):
            if (
                where == at
                and Path(arguments[target]).name == ".checkpoint-3.partial"
                and run in arguments[target].parents
            ):
                if where == "a file":
                    (arguments[target] / "model.safetensors").write_bytes(b"half")
                raise SystemExit  # ends the thread, without a word
            return plain(*arguments)

        return function

    with monkeypatch.context() as patch:
        patch.setattr(durable, "copy_tree", struck("a file", copy, 1))
        patch.setattr(checkpoints, "seal", struck("the mark", seal, 0))
        patch.setattr(Path, "rename", struck("the rename", rename, 0))
        killed(setting, 4, *overrides)
    assert names(run) == [".checkpoint-3.partial", "checkpoint-1", "checkpoint-2"]
    killed(setting, 1, *overrides)  # before the next checkpoint: the copy has been made again all the same
    assert names(run) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]
    capsys.readouterr()
    train(recipe_of(setting, *overrides))
    assert f"{run}: continuing from checkpoint-3\n" in capsys.readouterr().out
    assert names(run) == ["checkpoint-5", "checkpoint-6"]
    ends_like(run, whole)


def test_a_copy_that_cannot_be_made_stops_the_run(setting, places, monkeypatch):
    run, _, overrides = places

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
    assert names(run) == []  # half a copy would hold the room
    train(recipe_of(setting, *overrides))
    assert names(run) == ["checkpoint-5", "checkpoint-6"]


def test_a_local_disk_of_an_earlier_run_does_not_count(setting, whole, places):
    """The run folder was removed to begin again; or the run has gone on from another machine since."""
    run, local, overrides = places
    killed(setting, 3, *overrides)
    assert names(local) == ["checkpoint-1", "checkpoint-2"]
    shutil.rmtree(run)
    killed(setting, 2, *overrides)
    assert names(local) == ["checkpoint-1"]
    killed(setting, 3, *overrides, "run.local_dir=null")  # without a local disk: it goes on from the copy
    assert names(run) == ["checkpoint-2", "checkpoint-3"]
    train(recipe_of(setting, *overrides))
    ends_like(run, whole)


def test_the_best_of_a_reward_model_is_found_in_either_place(tmp_path, monkeypatch):
    """reward.keep_best: the best checkpoint stays in both places; without the local disk the copy is loaded."""
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
    until_copied()
    local = local_folder(f"{tmp_path}/disk", tmp_path / "other")
    for place in (local, tmp_path / "other"):
        assert names(place) == ["checkpoint-2", "checkpoint-3"]
    shutil.rmtree(local)
    accuracies = iter([0.7, 0.8])
    run("other", disk)
    assert same(weights(tmp_path / "one"), weights(tmp_path / "other"))


@pytest.mark.parametrize("place", ["", " ", "RUN", "RUN/checkpoints"])
def test_a_local_disk_that_is_none_is_refused(setting, tmp_path, place):
    named = place.replace("RUN", str(tmp_path))
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, f"run.dir={tmp_path}", f"run.local_dir='{named}'")
    assert str(error.value) == (
        f"run.local_dir is {named.strip() or repr('')}; name a folder on another disk than run.dir, or leave it out"
    )


def test_a_local_disk_that_cannot_be_written_is_said_at_once(setting, tmp_path):
    (tmp_path / "disk").touch()
    with pytest.raises(RunError) as error:
        train(recipe_of(setting, f"run.dir={tmp_path}/run", f"run.local_dir={tmp_path}/disk"))
    assert str(error.value) == (
        f"run.local_dir: {local_folder(f'{tmp_path}/disk', tmp_path / 'run')} cannot be written "
        "(Not a directory); name another folder"
    )


def test_it_is_for_one_machine(setting, tmp_path, monkeypatch):
    recipe = recipe_of(setting, f"run.dir={tmp_path}/run", f"run.local_dir={tmp_path}/disk")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(RunError) as error:
        CheckpointStore(RunFolder(recipe), recipe.run)
    assert str(error.value) == "run.local_dir works on one machine only, and this run is on several; leave it out"
