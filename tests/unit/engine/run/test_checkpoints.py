"""Checkpoints: which folders count as one, and that only folders written and marked by a run are removed."""

import shutil

import pytest

from engine.run import checkpoints
from engine.run.checkpoints import COMPLETE_FILE, WRITING_FILE


def write(folder, step, complete=True):
    """Write a checkpoint, or an incomplete one as after a kill."""
    path = folder / f"checkpoint-{step}"
    checkpoints.begin(path)
    (path / "part").mkdir()
    (path / "part" / "weights").write_text(str(step))
    if complete:
        checkpoints.seal(path, "recipe", step)
        checkpoints.publish(path, path)
    return path


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


COPIES = [
    "checkpoint-best",
    "checkpoint-1.bak",
    "checkpoint-7",
    "checkpoint-01",
    "checkpoint-1 (copy)",
    ".checkpoint-1",
]


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("copy", [*COPIES, ".checkpoint-7.partial"])
def test_a_copy_of_a_checkpoint_does_not_count_and_is_never_removed(tmp_path, copy, complete):
    shutil.copytree(write(tmp_path, 1, complete), tmp_path / copy)
    before = content(tmp_path / copy)
    for step in (2, 3, 4):
        write(tmp_path, step)
        checkpoints.discard_partial(tmp_path)
        checkpoints.prune(tmp_path, 1)
    checkpoints.remove_all(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [copy]
    assert content(tmp_path / copy) == before


def test_a_copy_under_another_step_is_not_resumed_from(tmp_path):
    first = write(tmp_path, 1)
    shutil.copytree(first, tmp_path / "checkpoint-7")
    assert checkpoints.newest(tmp_path) == first


def test_a_folder_in_the_place_of_the_next_checkpoint_is_renamed(tmp_path, capsys):
    for name in ("checkpoint-3", "checkpoint-3.other-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes").write_text(f"in {name}")
    written = write(tmp_path, 3)
    assert capsys.readouterr().out == (
        f"{written} is not a complete checkpoint of this run; renamed to checkpoint-3.other-2\n"
    )
    assert checkpoints.complete_checkpoints(tmp_path) == [written]
    assert (tmp_path / "checkpoint-3.other-2" / "notes").read_text() == "in checkpoint-3"
    assert (tmp_path / "checkpoint-3.other-1" / "notes").read_text() == "in checkpoint-3.other-1"


def test_incomplete_checkpoints_of_a_run_are_removed(tmp_path):
    write(tmp_path, 2, complete=False)
    checkpoints.begin(tmp_path / ".checkpoint-4.partial")
    kept = write(tmp_path, 3)
    checkpoints.discard_partial(tmp_path)
    assert list(tmp_path.iterdir()) == [kept]
    assert not (kept / WRITING_FILE).exists()


def test_a_removal_that_was_interrupted_is_completed(tmp_path, monkeypatch):
    write(tmp_path, 1), write(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if killed before the files were removed
        checkpoints.prune(tmp_path, 1)
    assert (tmp_path / "checkpoint-1" / "part" / "weights").exists()
    assert not (tmp_path / "checkpoint-1" / COMPLETE_FILE).exists()
    checkpoints.discard_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_pruning_keeps_the_newest_and_the_spared_checkpoint(tmp_path):
    written = [write(tmp_path, step) for step in (1, 2, 9, 10)]
    checkpoints.prune(tmp_path, 2, spare=written[0])
    assert checkpoints.complete_checkpoints(tmp_path) == [written[0], *written[2:]]


def test_a_checkpoint_of_an_earlier_version_counts_and_is_kept(tmp_path):
    old = tmp_path / "checkpoint-4"
    old.mkdir()
    (old / COMPLETE_FILE).touch()
    assert checkpoints.newest(tmp_path) == old
    new = write(tmp_path, 5)
    checkpoints.prune(tmp_path, 1)
    assert checkpoints.complete_checkpoints(tmp_path) == [old, new]
