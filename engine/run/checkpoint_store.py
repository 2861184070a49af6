"""Store a run's checkpoints in its folder, or write them to a local disk (`run.local_dir`) and copy them there.

A complete checkpoint counts in either place, and a run resumes from the newest one. The copy is made in the background
and is marked COMPLETE last, so a kill in the middle of it costs nothing. A local disk counts only if it is the one that
the run wrote to last: if the run has since continued on another machine, its checkpoints are stale.
"""

import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from config.sections import TrainingRun
from engine.dist.ranks import launched_ranks
from engine.errors import RunError, first_line
from engine.files import durable
from engine.run import checkpoints
from engine.run.folder import RunFolder

# A file with the same text in the run folder and on the local disk that its checkpoints were last written to.
OWNER_FILE = "local_disk"


class CheckpointStore:
    """The checkpoints of one run. Every rank has a store; only rank 0 may call `open`, `keep`, `wait` and `clear`.

    Raises RunError if `run.local_dir` is set and the run's ranks are on several machines.
    """

    def __init__(self, folder: RunFolder, run: TrainingRun):
        if run.local_dir is not None and launched_ranks() != int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
            raise RunError("run.local_dir works on one machine only, and this run is on several; leave it out")
        self.folder = folder
        self.count = run.keep_checkpoints
        self.write_folder = folder.path if run.local_dir is None else local_folder(run.local_dir, folder.path)
        """where checkpoints are written"""
        self.copy_seconds = 0.0
        """duration of the slowest copy so far"""
        self._copying: threading.Thread | None = None
        self._error = ""

    @property
    def places(self) -> list[Path]:
        """The folders whose checkpoints count."""
        owners = [read_owner(place) for place in (self.folder.path, self.write_folder)]
        return [self.folder.path, self.write_folder] if owners[0] and owners[0] == owners[1] else [self.folder.path]

    def open(self) -> None:
        """Remove partial checkpoints, claim the local disk (if any), and copy its newest checkpoint if that is missing.

        Raises RunError if the local disk cannot be written.
        """
        checkpoints.discard_partial(self.folder.path)
        if self.write_folder == self.folder.path:
            (self.folder.path / OWNER_FILE).unlink(missing_ok=True)
            return
        if len(self.places) == 1:
            try:
                checkpoints.remove_all(self.write_folder)  # of an earlier run, or older than the run folder's
                self.write_folder.mkdir(parents=True, exist_ok=True)
                owner = uuid.uuid4().hex
                durable.write_text(self.write_folder / OWNER_FILE, owner)
                durable.write_text(self.folder.path / OWNER_FILE, owner)
            except OSError as error:
                raise RunError(
                    f"run.local_dir: {self.write_folder} cannot be written ({error.strerror}); name another folder"
                ) from None
        checkpoints.discard_partial(self.write_folder)
        newest = checkpoints.newest(*self.places)
        if newest is not None and newest.parent == self.write_folder:
            self._begin_copy(newest, lambda: None)  # prunes nothing: the best checkpoint is not known yet

    def find(self, step: int) -> Path | None:
        """Return the complete checkpoint of a step, or None."""
        complete = (path for place in self.places for path in checkpoints.complete_checkpoints(place))
        return next((path for path in complete if checkpoints.step_of(path) == step), None)

    def keep(self, checkpoint: Path, spare: Path | None = None) -> None:
        """Start to copy a complete checkpoint from `write_folder`, and remove the oldest checkpoints beyond `count`.

        `spare` is never removed. Raises RunError if the previous copy failed.
        """
        self.wait()
        if self.write_folder != self.folder.path:
            self._begin_copy(checkpoint, lambda: checkpoints.prune(self.folder.path, self.count, spare))
        checkpoints.prune(self.write_folder, self.count, spare)

    def wait(self) -> None:
        """Wait for the running copy, if any. Raises RunError if it failed."""
        if self._copying is not None:
            self._copying.join()
            self._copying = None
        if self._error:
            newest = checkpoints.newest(*self.places)
            assert newest is not None  # the checkpoint that was to be copied
            raise RunError(
                f"{self._error}; make room or fix the folder's permissions, then the same command continues from "
                f"{newest.name}"
            )

    def clear(self) -> None:
        """Remove the checkpoints on the local disk, once the run is finished."""
        if self.write_folder != self.folder.path:
            checkpoints.remove_all(self.write_folder)
            for place in (self.write_folder, self.folder.path):
                (place / OWNER_FILE).unlink(missing_ok=True)
            with suppress(OSError):  # the user's own files stay there
                self.write_folder.rmdir()

    def _begin_copy(self, checkpoint: Path, then: Callable[[], None]) -> None:
        # A daemon thread: a run that fails does not wait for it, and the next run copies again.
        self._copying = threading.Thread(target=self._copy, args=(checkpoint, then), name="copy", daemon=True)
        self._copying.start()

    def _copy(self, checkpoint: Path, then: Callable[[], None]) -> None:
        began = time.perf_counter()
        target = self.folder.path
        final = target / checkpoint.name
        partial = checkpoints.partial_of(final)
        try:
            checkpoints.begin(partial)
            durable.copy_tree(checkpoint, partial)
            (partial / checkpoints.COMPLETE_FILE).unlink()
            checkpoints.seal(partial, self.folder.recipe_yaml, checkpoints.step_of(final))
            checkpoints.publish(partial, final)
            then()
        except OSError as error:
            checkpoints.discard_partial(target)  # free the space of half a checkpoint
            self._error = f"{final} cannot be copied from run.local_dir ({first_line(error)})"
        self.copy_seconds = max(self.copy_seconds, time.perf_counter() - began)


def local_folder(local_dir: str, run_dir: Path) -> Path:
    """Return this run's own folder on a local disk, which other runs may share."""
    return Path(local_dir) / re.sub(r"[^\w.-]+", "-", str(run_dir.resolve())).strip("-")


def read_owner(place: Path) -> str:
    """Return the owner id in a folder, or ""."""
    path = place / OWNER_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else ""
