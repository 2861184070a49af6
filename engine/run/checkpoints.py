"""Checkpoints that a kill cannot damage: checkpoint-N counts once its COMPLETE file, synced last, exists.

Each holds the recipe of the run that wrote it, and only a run of that recipe resumes from it.
"""

import re
import shutil
from pathlib import Path

from engine.errors import RunError
from engine.files import durable
from engine.run.folder import differing_keys

MARK, RECIPE = "COMPLETE", "recipe.yaml"


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name: `checkpoint-30` -> 30."""
    return int(path.name.rpartition("-")[2])


def complete_checkpoints(run_dir: Path) -> list[Path]:
    """Return the complete checkpoints of a run, oldest first."""
    found = [path for path in run_dir.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted((path for path in found if (path / MARK).exists()), key=step_of)


def newest(*folders: Path) -> Path | None:
    """Return the newest complete checkpoint in any of the folders, None if there is none."""
    return max((path for folder in folders for path in complete_checkpoints(folder)), key=step_of, default=None)


def discard_partial(run_dir: Path) -> None:
    """Remove what an interrupted writer left; it must not mix with what is written next."""
    keep = set(complete_checkpoints(run_dir))
    for path in [*run_dir.glob("checkpoint-*"), *run_dir.glob(".checkpoint-*")]:
        if path not in keep:
            shutil.rmtree(path, ignore_errors=True)


def to_resume(recipe: str, *folders: Path) -> Path | None:
    """Return the checkpoint that a run of `recipe` resumes from, None if there is none.

    Raises RunError if a run of another recipe wrote it.
    """
    found = newest(*folders)
    if found is not None:
        keys = differing_keys((found / RECIPE).read_text(encoding="utf-8"), recipe)
        if keys:
            raise RunError(
                f"{found} is of another recipe, which differs in {', '.join(keys)}; "
                "name another run.dir, or move the checkpoint away"
            )
    return found


def seal(checkpoint: Path, recipe: str) -> None:
    """Add the run's recipe to a written checkpoint, sync everything in it, then mark it complete."""
    (checkpoint / RECIPE).write_text(recipe, encoding="utf-8")
    durable.sync_tree(checkpoint)
    durable.write_text(checkpoint / MARK, "")


def prune(run_dir: Path, keep: int, spare: Path | None = None) -> None:
    """Remove all complete checkpoints but the `keep` newest; `spare` (the best one, say) stays as well."""
    for path in complete_checkpoints(run_dir)[:-keep]:
        if spare is None or path.name != spare.name:
            (path / MARK).unlink()  # from here on it does not count, even if a kill leaves half of it
            shutil.rmtree(path)
