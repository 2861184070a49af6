"""Checkpoints that a kill cannot damage: checkpoint-N counts once its file COMPLETE, which is synced last, exists.

A checkpoint contains the recipe of the run that wrote it, and only a run of that recipe resumes from it. COMPLETE
contains the step, so a copy under another name is not a checkpoint of this run. While a folder is being written or
removed, its file WRITING contains the step. Only such folders are ever removed: all else in a run folder is the user's.
"""

import re
import shutil
from pathlib import Path

from config.resume import changes
from config.schema import Recipe
from engine.errors import RunError
from engine.files import durable

COMPLETE_FILE, WRITING_FILE, RECIPE_FILE = "COMPLETE", "WRITING", "recipe.yaml"
CHECKPOINT_NAME, PARTIAL_NAME = (
    re.compile(r"checkpoint-(0|[1-9]\d*)"),
    re.compile(r"\.checkpoint-(0|[1-9]\d*)\.partial"),
)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name: `checkpoint-30` → 30."""
    return int(path.name.rpartition("-")[2])


def written_step(path: Path) -> int | None:
    """Return the step stored in a complete checkpoint; None if an earlier version, which stored none, wrote it."""
    text = (path / COMPLETE_FILE).read_text(encoding="utf-8")
    return int(text) if text.strip() else None


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    found = [
        path
        for path in run_dir.glob("checkpoint-*")
        if CHECKPOINT_NAME.fullmatch(path.name) and (path / COMPLETE_FILE).exists()
    ]
    return sorted((path for path in found if written_step(path) in (None, step_of(path))), key=step_of)


def newest(*folders: Path) -> Path | None:
    """Return the newest complete checkpoint in any of the folders, or None."""
    return max((path for folder in folders for path in complete_checkpoints(folder)), key=step_of, default=None)


def partial_of(checkpoint: Path) -> Path:
    """Return the hidden folder that a checkpoint is written into."""
    return checkpoint.with_name(f".{checkpoint.name}.partial")


def is_leftover(path: Path) -> bool:
    """Return whether a folder is a checkpoint whose writing or removal was interrupted."""
    partial, final = PARTIAL_NAME.fullmatch(path.name), CHECKPOINT_NAME.fullmatch(path.name)
    named = partial or (final if not (path / COMPLETE_FILE).exists() else None)
    mark = path / WRITING_FILE
    return named is not None and mark.is_file() and mark.read_text(encoding="utf-8").strip() == named[1]


def discard_partial(run_dir: Path) -> None:
    """Remove checkpoints whose writing or removal was interrupted."""
    for path in [*run_dir.glob("checkpoint-*"), *run_dir.glob(".checkpoint-*")]:
        if is_leftover(path):
            _remove(path)


def free_path(path: Path) -> None:
    """Make a path available for a new folder: remove a leftover checkpoint, rename a folder of the user's."""
    if is_leftover(path):
        _remove(path)
    elif path.exists() or path.is_symlink():
        set_aside(path, "is not a complete checkpoint of this run")


def set_aside(path: Path, why: str) -> None:
    """Rename a folder of the user's that is in the way, and print the new name."""
    number = next(n for n in range(1, 10**6) if not path.with_name(f"{path.name}.other-{n}").exists())
    aside = path.with_name(f"{path.name}.other-{number}")
    path.rename(aside)
    print(f"{path} {why}; renamed to {aside.name}", flush=True)


def begin(folder: Path) -> None:
    """Create the empty folder that a checkpoint is written into, with its WRITING file."""
    free_path(folder)
    folder.mkdir(parents=True)
    _mark(folder)


def find_resumable(recipe: Recipe, *folders: Path) -> Path | None:
    """Return the checkpoint that a run of `recipe` resumes from, or None.

    Raises RunError if a run of another recipe wrote it.
    """
    found = newest(*folders)
    if found is not None:
        differing = changes((found / RECIPE_FILE).read_text(encoding="utf-8"), recipe)
        if differing.refused:
            raise RunError(
                f"{found} was written under another recipe, which differs in {differing}; "
                "name another run.dir, or move the checkpoint away"
            )
    return found


def seal(checkpoint: Path, recipe: str, step: int) -> None:
    """Add the run's recipe to a written checkpoint, sync all its files to disk, then mark it complete."""
    (checkpoint / RECIPE_FILE).write_text(recipe, encoding="utf-8")
    durable.sync_tree(checkpoint)
    durable.write_text(checkpoint / COMPLETE_FILE, f"{step}\n")


def publish(written: Path, final: Path) -> None:
    """Give a sealed checkpoint its final name and remove its WRITING file."""
    if written != final:
        free_path(final)
        written.rename(final)
    (final / WRITING_FILE).unlink(missing_ok=True)
    durable.sync(final.parent)


def prune(run_dir: Path, keep: int, spare: Path | None = None) -> None:
    """Remove all complete checkpoints but the `keep` newest and `spare` (for example the best one).

    A checkpoint of an earlier version, which does not store its step, is not removed: it may be a copy of another.
    """
    found = complete_checkpoints(run_dir)
    for path in found[: max(len(found) - keep, 0)]:
        if written_step(path) is not None and (spare is None or path.name != spare.name):
            _mark(path)
            (path / COMPLETE_FILE).unlink()  # now it does not count, even if a kill leaves half of it
            _remove(path)


def remove_all(run_dir: Path) -> None:
    """Remove every checkpoint, complete or not; those of an earlier version are renamed and no longer count."""
    discard_partial(run_dir)
    prune(run_dir, 0)
    for path in complete_checkpoints(run_dir):
        free_path(path)


def _mark(folder: Path) -> None:
    name = CHECKPOINT_NAME.fullmatch(folder.name) or PARTIAL_NAME.fullmatch(folder.name)
    assert name is not None, folder
    (folder / WRITING_FILE).write_text(f"{name[1]}\n", encoding="utf-8")


def _remove(path: Path) -> None:
    """Remove a checkpoint, its WRITING file last, so that what a kill leaves is still recognised as a leftover."""
    for inside in path.iterdir():
        if inside.name == WRITING_FILE:
            continue
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside, ignore_errors=True)
        else:
            inside.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
