"""The lifecycle of a run, whichever loop makes its steps: resume, save, stop in time, finish, push.

Its two users are the loop of stages with steps of their own (engine/run/loop.py) and the glue to TRL's trainers
(engine/run/trainer.py). What they have in common is decided here alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from accelerate import Accelerator
from safetensors import SafetensorError

from config.sections import TrainingRun
from engine.dist.devices import out_of_memory
from engine.dist.ranks import is_main_process, leave_group
from engine.errors import RunError
from engine.files import durable
from engine.run import checkpoints, hub
from engine.run.checkpoint_store import CheckpointStore
from engine.run.console import Steps
from engine.run.disk_space import DiskNeeds, check_disk, why_not_written
from engine.run.folder import RunFolder
from engine.run.interruption import Interruption
from engine.run.metrics import MetricsLog, StepLog
from engine.run.time_limit import OUT_OF_TIME, TimeLimit

# A full disk raises OSError in Python, SafetensorError in safetensors and RuntimeError in torch's writer.
WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)


class Lifecycle:
    """One run of a stage, from the decision where to resume to the push of its model.

    Every rank makes one. Its order of calls: `interruptible` around all steps; in it `begin`, then `end_step` after
    each step and `checkpoint` or `seal` where the step is saved; `leave` if `stop_code` is set, else `finish`.

    Raises RunError if the newest checkpoint is of another recipe, if a push is asked for without a token, or if
    `run.local_dir` cannot be used.
    """

    def __init__(self, stage: str, folder: RunFolder, run: TrainingRun):
        hub.refuse_without_token(run)
        self.stage, self.folder, self.run = stage, folder, run
        self.store = CheckpointStore(folder, run)
        self.limit = TimeLimit(run.max_hours)
        self.resume_from = checkpoints.to_resume(folder.recipe, *self.store.places)
        """the checkpoint to resume from, None for a run that starts"""
        self.step = checkpoints.step_of(self.resume_from) if self.resume_from else 0
        """the last step that is done"""
        self.stop_code = 0
        """the exit code of a run that has to leave before its end, 0 for any other"""
        self.phase = ""
        """the part of a step that is at work, where the loop names its parts"""
        self.needs: DiskNeeds | None = None
        """the disk space that the run needs, known when its steps begin"""
        self._logs: list[StepLog] = []
        if is_main_process():
            self.store.open()
            self.metrics = MetricsLog(folder.path / "metrics.jsonl", self.step)
            self._logs.append(self.metrics)

    def open_log(self, name: str) -> StepLog:
        """Open a log of the run folder before the first step; it is synced with every checkpoint (rank 0 only)."""
        self._logs.append(StepLog(self.folder.path / name, self.step))
        return self._logs[-1]

    @contextmanager
    def interruptible(self, accelerator: Accelerator) -> Iterator[None]:
        """Let signals within the block stop the run after its current step."""
        self.accelerator = accelerator
        if self.resume_from and is_main_process():
            print(f"{self.folder.path}: continuing from {self.resume_from.name}", flush=True)
        self.console: Steps | None = None
        try:
            with Interruption(accelerator, self.limit, self._waiting) as self.interruption:
                yield
        finally:
            if self.console is not None:
                self.console.stop()

    def _waiting(self) -> str:
        """Return what a run that has to stop still waits for, and what a second signal leads to."""
        phase = f"phase {self.phase}, " if self.phase else ""
        longest = self.limit.longest("step")
        before = "" if longest is None else f"; the longest before it took {longest:.0f} s"
        newest = checkpoints.newest(*self.store.places)
        way_on = f"continues from {newest.name}" if newest else "begins again"
        return (
            f"still waiting for step {self.step + 1} to end ({phase}{self.limit.so_far:.0f} s so far{before}); "
            f"once more leaves at once, and the same command {way_on}"
        )

    def begin(self, total: int, needs: DiskNeeds) -> None:
        """Show the progress of a run of `total` steps and start to measure its first step.

        Raises RunError where the disk has no room for what the run `needs`.
        """
        self.total, self.needs = total, needs
        if is_main_process() and self.step < total:
            check_disk(needs, self.folder.path, self.store.here, resumes=self.resume_from is not None)
        if is_main_process():
            # Not before: a longer run that is refused, its data having changed, say, leaves the finished one as it was.
            self.folder.finished.unlink(missing_ok=True)
        self.console = Steps(self.stage, total, self.step, speaks=is_main_process())
        self.console.start()
        self.limit.begin()

    def end_step(self, step: int) -> bool:
        """Note that a step is done; return whether the run has to save it and leave (collective)."""
        self.step = step
        self.limit.lap("step")
        self.limit.took("copy", self.store.copy_seconds)
        code = self.interruption.code()
        # After the last step there is nothing left to resume.
        self.stop_code = 0 if code == OUT_OF_TIME and step >= self.total else code
        return self.stop_code != 0

    @contextmanager
    def checkpoint(self, best: int | None = None) -> Iterator[Path]:
        """Let all ranks write into a hidden folder, which becomes `checkpoint-N` once it is complete (collective).

        `best` is the step whose checkpoint stays however old it is.
        """
        final = self.store.here / f"checkpoint-{self.step}"
        partial = checkpoints.partial_of(final)
        with self.written_by_all(final, partial):
            yield partial
        self.seal(partial, final, best)

    @contextmanager
    def written_by_all(self, final: Path, folder: Path) -> Iterator[None]:
        """Let all ranks write into a new `folder`, marked as ours, which is to become the `final` one (collective)."""
        with self.writing(final):
            if is_main_process():
                checkpoints.begin(folder)
            self.accelerator.wait_for_everyone()
            yield

    def seal(self, written: Path, final: Path, best: int | None = None) -> None:
        """Declare a checkpoint complete that all ranks have written, under its `final` name, and keep it (collective).

        `best` is the step whose checkpoint stays however old it is.
        """
        self.accelerator.wait_for_everyone()  # each rank writes its part
        if is_main_process():
            with self.writing(final):
                for log in self._logs:
                    durable.sync(log.path)  # a checkpoint must not outlive the log lines of its steps
                checkpoints.seal(written, self.folder.recipe_yaml, checkpoints.step_of(final))
                checkpoints.publish(written, final)
                self.store.keep(final, final.with_name(f"checkpoint-{best}") if best else None)
        self.accelerator.wait_for_everyone()
        self.limit.lap("save")

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Raise RunError where something in the block cannot be written, and remove a half-written checkpoint."""
        try:
            yield
        except WRITE_ERRORS as error:
            if out_of_memory(error):
                raise
            why = why_not_written(error, path, self.needs)
            if is_main_process():
                checkpoints.discard_partial(self.store.here)
            newest = checkpoints.newest(*self.store.places)
            way_on = f"continues from {newest.name}" if newest else "begins again"
            raise RunError(
                f"{path} cannot be written ({why}); make room or see to the folder's permissions, "
                f"then the same command {way_on}"
            ) from None

    def find_best(self, step: int) -> Path:
        """Return the checkpoint of the best step so far. Raises RunError where it is gone."""
        found = self.store.find(step)
        if found is None:
            raise RunError(
                f"{self.folder.path}: checkpoint-{step}, the best so far, is gone; put it back, or name another run.dir"
            )
        return found

    def leave(self) -> NoReturn:
        """End a run that has to stop, after its step was saved; raises SystemExit with the stop code (collective)."""
        if is_main_process():
            self.store.wait()
        self.interruption.leave(self.folder.path / f"checkpoint-{self.step}", self.stop_code)

    def keep_model(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a finished model's folder in one step, on rank 0.

        That of a shorter run is replaced; where somebody has put files into it, it stays under another name.
        """
        path = self.folder.path / name

        def write_and_compare(partial: Path) -> None:
            write(partial)
            known = {Path(hub.PUSHED_CARD), *(file.relative_to(partial) for file in partial.rglob("*"))}
            if any(file.relative_to(path) not in known for file in path.rglob("*")):
                checkpoints.set_aside(path, "holds files that this run does not write")

        if is_main_process():
            with self.writing(path):
                durable.write_folder(path, write_and_compare)

    def finish(self, best: dict[str, Any] | None = None) -> None:
        """Mark the run as finished, end its process group, then push (collective).

        `best` says which checkpoint the finished models are of, where the run has chosen one.

        The push comes last: no other rank waits for it, however long it takes.
        """
        if is_main_process():
            self.store.wait()
            self.folder.finish(self.step, self.metrics.elapsed_seconds, "steps", best)
            self.store.clear()
        leave_group(self.accelerator)
        if is_main_process():
            hub.push_after(self.folder, self.run)
