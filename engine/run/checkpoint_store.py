"""Where a run's checkpoints lie: in its folder, or first on a local disk (`run.local_dir`) and copied on from there.

A checkpoint counts wherever it is whole, and the newest one is continued from. The copy is made while the run goes on
and marked COMPLETE last, so a kill in the middle of it costs nothing. A local disk counts only while it is the one that
the run wrote to last: where the run has gone on from another machine since, what is still there is of no use.
"""

import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from config.sections import TrainingRun
from engine.errors import RunError, first_line
from engine.files import durable
from engine.run import checkpoints
from engine.run.folder import RunFolder

# The same text in the run folder and on the local disk that its checkpoints were last written to.
OWNER = "local_disk"


class CheckpointStore:
    """The checkpoints of one run. All processes ask for them; only the first one `open`s, `keep`s and `clear`s."""

    def __init__(self, folder: RunFolder, run: TrainingRun):
        processes, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
        if run.local_dir is not None and processes != here:
            raise RunError("run.local_dir is for one machine, and the processes are on several; leave it out")
        self.folder, self.count = folder, run.keep_checkpoints
        self.here = folder.path if run.local_dir is None else local_place(run.local_dir, folder.path)
        """where checkpoints are written"""
        self.copy_seconds = 0.0
        """the longest that a copy has taken"""
        self._copying: threading.Thread | None = None
        self._error = ""

    @property
    def places(self) -> list[Path]:
        """The folders whose checkpoints count."""
        owners = [read_owner(place) for place in (self.folder.path, self.here)]
        return [self.folder.path, self.here] if owners[0] and owners[0] == owners[1] else [self.folder.path]

    def open(self) -> None:
        """Remove what interrupted writers left; take the local disk, if there is one; copy on what was not copied."""
        checkpoints.discard_partial(self.folder.path)
        if self.here == self.folder.path:
            (self.folder.path / OWNER).unlink(missing_ok=True)
            return
        if len(self.places) == 1:
            try:
                shutil.rmtree(self.here, ignore_errors=True)
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
            self._begin_copy(newest, lambda: None)  # which of the others has to stay is not known yet

    def find(self, step: int) -> Path | None:
        """The whole checkpoint of a step, if there is one."""
        return next((path for place in self.places for path in checkpoints.whole(place)
                     if checkpoints.step_of(path) == step), None)  # fmt: skip

    def keep(self, checkpoint: Path, spare: Path | None = None) -> None:
        """A checkpoint `here` is whole: begin to copy it on where it has to be, and remove those that are too many.

        `spare` stays besides. RunError if the copy before could not be made.
        """
        self.wait()
        if self.here != self.folder.path:
            self._begin_copy(checkpoint, lambda: checkpoints.prune(self.folder.path, self.count, spare))
        checkpoints.prune(self.here, self.count, spare)

    def wait(self) -> None:
        """Until what is being copied is there; RunError if it cannot be."""
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
        """Give the local disk back, once the run is finished."""
        if self.here != self.folder.path:
            shutil.rmtree(self.here, ignore_errors=True)
            (self.folder.path / OWNER).unlink(missing_ok=True)

    def _begin_copy(self, checkpoint: Path, then: Callable[[], None]) -> None:
        # Not waited for where the run ends by an error: the next one copies again.
        self._copying = threading.Thread(target=self._copy, args=(checkpoint, then), name="copy", daemon=True)
        self._copying.start()

    def _copy(self, checkpoint: Path, then: Callable[[], None]) -> None:
        began, target = time.perf_counter(), self.folder.path
        partial = target / f".{checkpoint.name}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            durable.copy_tree(checkpoint, partial)
            (partial / checkpoints.MARK).unlink()
            checkpoints.seal(partial, self.folder.recipe)
            partial.rename(target / checkpoint.name)
            durable.sync(target)
            then()
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)  # half a checkpoint would hold the room
            self._error = f"{target / checkpoint.name} cannot be copied from run.local_dir ({first_line(error)})"
        self.copy_seconds = max(self.copy_seconds, time.perf_counter() - began)


def local_place(local_dir: str, run_dir: Path) -> Path:
    """This run's folder on a local disk that other runs may use as well."""
    return Path(local_dir) / re.sub(r"[^\w.-]+", "-", str(run_dir.resolve())).strip("-")


def read_owner(place: Path) -> str:
    """Which run a folder belongs to, "" if it does not say."""
    path = place / OWNER
    return path.read_text(encoding="utf-8") if path.is_file() else ""
