"""Where a run's checkpoints are: in its folder, or first on a local disk (`run.local_dir`) and then copied there.

A checkpoint counts in either place once it is complete, and the newest one is resumed from. The copy is made while the
run continues and is marked COMPLETE last, so a kill in the middle of it costs nothing. A local disk counts only while
it is the one that the run wrote to last: if the run has continued on another machine since, its checkpoints are stale.
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

# The same text in the run folder and on the local disk that its checkpoints were last written to.
OWNER = "local_disk"


class CheckpointStore:
    """The checkpoints of one run. Every rank has one; only rank 0 may `open`, `keep`, `wait` and `clear`."""

    def __init__(self, folder: RunFolder, run: TrainingRun):
        if run.local_dir is not None and launched_ranks() != int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
            raise RunError("run.local_dir is for one machine, and the processes are on several; leave it out")
        self.folder = folder
        self.count = run.keep_checkpoints
        self.here = folder.path if run.local_dir is None else local_place(run.local_dir, folder.path)
        """where checkpoints are written"""
        self.copy_seconds = 0.0
        """the longest time that a copy has taken"""
        self._copying: threading.Thread | None = None
        self._error = ""

    @property
    def places(self) -> list[Path]:
        """Return the folders whose checkpoints count."""
        owners = [read_owner(place) for place in (self.folder.path, self.here)]
        return [self.folder.path, self.here] if owners[0] and owners[0] == owners[1] else [self.folder.path]

    def open(self) -> None:
        """Remove what interrupted writers left, claim the local disk if there is one, copy what was not copied yet."""
        checkpoints.discard_partial(self.folder.path)
        if self.here == self.folder.path:
            (self.folder.path / OWNER).unlink(missing_ok=True)
            return
        if len(self.places) == 1:
            try:
                checkpoints.remove_all(self.here)  # of an earlier run, or behind the run folder's
                self.here.mkdir(parents=True, exist_ok=True)
                owner = uuid.uuid4().hex
                durable.write_text(self.here / OWNER, owner)
                durable.write_text(self.folder.path / OWNER, owner)
            except OSError as error:
                raise RunError(
                    f"run.local_dir: {self.here} cannot be written ({error.strerror}); name another folder"
                ) from None
        checkpoints.discard_partial(self.here)
        newest = checkpoints.newest(*self.places)
        if newest is not None and newest.parent == self.here:
            self._begin_copy(newest, lambda: None)  # prunes nothing: the best checkpoint is not known yet

    def find(self, step: int) -> Path | None:
        """Return the complete checkpoint of a step, None if there is none."""
        complete = (path for place in self.places for path in checkpoints.complete_checkpoints(place))
        return next((path for path in complete if checkpoints.step_of(path) == step), None)

    def keep(self, checkpoint: Path, spare: Path | None = None) -> None:
        """Start to copy a complete checkpoint that was written `here`, and remove checkpoints that are too many.

        `spare` stays as well. Raises RunError if the copy before could not be made.
        """
        self.wait()
        if self.here != self.folder.path:
            self._begin_copy(checkpoint, lambda: checkpoints.prune(self.folder.path, self.count, spare))
        checkpoints.prune(self.here, self.count, spare)

    def wait(self) -> None:
        """Wait for the running copy, if there is one. Raises RunError if it could not be made."""
        if self._copying is not None:
            self._copying.join()
            self._copying = None
        if self._error:
            newest = checkpoints.newest(*self.places)
            raise RunError(
                f"{self._error}; make room or see to the folder's permissions, then the same command continues from "
                f"{newest.name}"
            )

    def clear(self) -> None:
        """Free the local disk, once the run is finished."""
        if self.here != self.folder.path:
            checkpoints.remove_all(self.here)
            for place in (self.here, self.folder.path):
                (place / OWNER).unlink(missing_ok=True)
            with suppress(OSError):  # the user's own files stay there
                self.here.rmdir()

    def _begin_copy(self, checkpoint: Path, then: Callable[[], None]) -> None:
        # A daemon: a run that ends by an error does not wait for it, and the next run copies again.
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
            (partial / checkpoints.MARK).unlink()
            checkpoints.seal(partial, self.folder.recipe_yaml, checkpoints.step_of(final))
            checkpoints.publish(partial, final)
            then()
        except OSError as error:
            checkpoints.discard_partial(target)  # free the space of half a checkpoint
            self._error = f"{final} cannot be copied from run.local_dir ({first_line(error)})"
        self.copy_seconds = max(self.copy_seconds, time.perf_counter() - began)


def local_place(local_dir: str, run_dir: Path) -> Path:
    """Return this run's own folder on a local disk that other runs may use as well."""
    return Path(local_dir) / re.sub(r"[^\w.-]+", "-", str(run_dir.resolve())).strip("-")


def read_owner(place: Path) -> str:
    """Return the name of a folder's owner, "" if it has none."""
    path = place / OWNER
    return path.read_text(encoding="utf-8") if path.is_file() else ""
