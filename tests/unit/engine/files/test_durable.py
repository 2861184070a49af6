"""A folder that is replaced is the old one or the new one, whenever the process is killed."""

from pathlib import Path

import pytest

from engine.files import durable


class Killed(BaseException):
    pass


def write(text):
    return lambda folder: (folder / "file").write_text(text)


def fail(folder):
    raise OSError("disk full")


def test_a_folder_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    folder = tmp_path / "model"
    durable.write_folder(folder, write("old"))
    durable.write_folder(folder, write("new"))
    assert (folder / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_write_that_fails_leaves_the_folder_as_it_was(tmp_path):
    folder = tmp_path / "model"
    durable.write_folder(folder, write("old"))
    with pytest.raises(OSError, match="disk full"):
        durable.write_folder(folder, fail)
    assert (folder / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_kill_while_the_old_folder_is_removed_leaves_the_new_one(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    durable.write_folder(folder, write("old"))
    remove, removed = durable.shutil.rmtree, []

    def killed(path, **options):
        if path.exists():
            removed.append(path)
            raise Killed
        remove(path, **options)

    monkeypatch.setattr(durable.shutil, "rmtree", killed)
    with pytest.raises(Killed):
        durable.write_folder(folder, write("new"))
    assert removed != [folder]
    assert (folder / "file").read_text() == "new"


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    durable.write_folder(folder, write("old"))
    rename = Path.rename

    def killed(path, target):
        if path.name == ".model.partial":
            raise Killed
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(Killed):
            durable.write_folder(folder, write("new"))
    with pytest.raises(OSError, match="disk full"):
        durable.write_folder(folder, fail)
    assert (folder / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]
