"""Checkpoints that a kill cannot damage: checkpoint-N counts once its COMPLETE file, synced last, exists.

Each holds the recipe of the run that wrote it, and only a run of that recipe resumes from it. COMPLETE holds the step,
so that a copy under another name is no checkpoint of this run. A folder that is being written, or removed, holds a
file WRITING with that step. Nothing else is ever removed: whatever else stands in a run folder belongs to the user.
"""

import re
import shutil
from pathlib import Path

from config.resume import changes
from config.schema import Recipe
from engine.errors import RunError
from engine.files import durable

MARK, WRITING, RECIPE = "COMPLETE", "WRITING", "recipe.yaml"
NAME, PARTIAL_NAME = re.compile(r"checkpoint-(0|[1-9]\d*)"), re.compile(r"\.checkpoint-(0|[1-9]\d*)\.partial")


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name: `checkpoint-30` -> 30."""
    return int(path.name.rpartition("-")[2])


def written_step(path: Path) -> int | None:
    """Return the step that a complete checkpoint was written at; None where an earlier version did not note it."""
    text = (path / MARK).read_text(encoding="utf-8")
    return int(text) if text.strip() else None


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    found = [path for path in run_dir.glob("checkpoint-*") if NAME.fullmatch(path.name) and (path / MARK).exists()]
    return sorted((path for path in found if written_step(path) in (None, step_of(path))), key=step_of)


def newest(*folders: Path) -> Path | None:
    """Return the newest complete checkpoint in any of the folders, None if there is none."""
    return max((path for folder in folders for path in complete_checkpoints(folder)), key=step_of, default=None)


def partial_of(checkpoint: Path) -> Path:
    """Return the hidden folder in which a checkpoint is written."""
    return checkpoint.with_name(f".{checkpoint.name}.partial")


def is_leftover(path: Path) -> bool:
    """Return whether our writer made a folder and was interrupted before it was complete, or removed."""
    partial, final = PARTIAL_NAME.fullmatch(path.name), NAME.fullmatch(path.name)
    named = partial or (final if not (path / MARK).exists() else None)
    mark = path / WRITING
    return named is not None and mark.is_file() and mark.read_text(encoding="utf-8").strip() == named[1]


def discard_partial(run_dir: Path) -> None:
    """Remove what an interrupted writer left; it must not mix with what is written next."""
    for path in [*run_dir.glob("checkpoint-*"), *run_dir.glob(".checkpoint-*")]:
        if is_leftover(path):
            _remove(path)


def make_way(path: Path) -> None:
    """Free the name of a folder that is written next: a leftover is removed, a folder of the user's is renamed."""
    if is_leftover(path):
        _remove(path)
    elif path.exists() or path.is_symlink():
        set_aside(path, "is not a complete checkpoint of this run")


def set_aside(path: Path, why: str) -> None:
    """Rename a folder of the user's that is in the way, and say so."""
    number = next(n for n in range(1, 10**6) if not path.with_name(f"{path.name}.other-{n}").exists())
    aside = path.with_name(f"{path.name}.other-{number}")
    path.rename(aside)
    print(f"{path} {why}, and is {aside.name} from now on", flush=True)


def begin(folder: Path) -> None:
    """Make the empty folder that a checkpoint is written into, marked as ours."""
    make_way(folder)
    folder.mkdir(parents=True)
    _mark(folder)


def to_resume(recipe: Recipe, *folders: Path) -> Path | None:
    """Return the checkpoint that a run of `recipe` resumes from, None if there is none.

    Raises RunError if a run of another recipe wrote it.
    """
    found = newest(*folders)
    if found is not None:
        differing = changes((found / RECIPE).read_text(encoding="utf-8"), recipe)
        if differing.refused:
            raise RunError(
                f"{found} is of another recipe, which differs in {differing}; "
                "name another run.dir, or move the checkpoint away"
            )
    return found


def seal(checkpoint: Path, recipe: str, step: int) -> None:
    """Add the run's recipe to a written checkpoint, sync everything in it, then mark it complete."""
    (checkpoint / RECIPE).write_text(recipe, encoding="utf-8")
    durable.sync_tree(checkpoint)
    durable.write_text(checkpoint / MARK, f"{step}\n")


def publish(written: Path, final: Path) -> None:
    """Give a sealed checkpoint its final name; from here on it is no leftover."""
    if written != final:
        make_way(final)
        written.rename(final)
    (final / WRITING).unlink(missing_ok=True)
    durable.sync(final.parent)


def prune(run_dir: Path, keep: int, spare: Path | None = None) -> None:
    """Remove all complete checkpoints but the `keep` newest; `spare` (the best one, say) stays as well.

    One that does not hold its step, of an earlier version, stays too: it may be a copy of another.
    """
    found = complete_checkpoints(run_dir)
    for path in found[: max(len(found) - keep, 0)]:
        if written_step(path) is not None and (spare is None or path.name != spare.name):
            _mark(path)
            (path / MARK).unlink()  # from here on it does not count, even if a kill leaves half of it
            _remove(path)


def remove_all(run_dir: Path) -> None:
    """Remove every checkpoint of ours, complete or not; what else is there does not count from now on."""
    discard_partial(run_dir)
    prune(run_dir, 0)
    for path in complete_checkpoints(run_dir):
        make_way(path)


def _mark(folder: Path) -> None:
    step = (NAME.fullmatch(folder.name) or PARTIAL_NAME.fullmatch(folder.name))[1]
    (folder / WRITING).write_text(f"{step}\n", encoding="utf-8")


def _remove(path: Path) -> None:
    """Remove a folder of ours, its mark last: what a kill leaves of it is still known as ours."""
    for inside in path.iterdir():
        if inside.name == WRITING:
            continue
        if inside.is_dir() and not inside.is_symlink():
            shutil.rmtree(inside, ignore_errors=True)
        else:
            inside.unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
