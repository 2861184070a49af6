"""The lifecycle of a run: resume, save, stop in time, finish, push.

It is shared by the training loop of stages that do not use a TRL trainer (engine/run/loop.py) and by the adapter for
TRL's trainers (engine/run/trainer.py).
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
from engine.run.disk_space import DiskNeeds, check_disk, write_failure
from engine.run.folder import RunFolder
from engine.run.interruption import Interruption
from engine.run.metrics import MetricsLog, StepLog
from engine.run.time_limit import OUT_OF_TIME, TimeLimit

# A full disk raises OSError in Python, SafetensorError in safetensors and RuntimeError in torch's writer.
WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)


# Steps after which the duration of the run is estimated (the first ones are slower), unless it is shorter than this.
STEPS_BEFORE_ESTIMATE, SHORT_RUN_SECONDS = 3, 120


class Lifecycle:
    """One run of a stage, from finding the checkpoint to resume from to pushing the model.

    Every rank creates one. Order of calls: `interruptible` around all steps; within it `begin`, then `end_step` after
    each step and `checkpoint` or `seal` if the step is saved; finally `leave` if `stop_code` is set, else `finish`.

    Raises RunError if the newest checkpoint was written under another recipe, if the run is to be pushed and there is
    no token, or if `run.local_dir` cannot be used.
    """

    def __init__(self, stage: str, folder: RunFolder, run: TrainingRun):
        hub.refuse_without_token(run)
        self.stage, self.folder, self.run = stage, folder, run
        self.store = CheckpointStore(folder, run)
        self.limit = TimeLimit(run.max_hours)
        self.resume_from = checkpoints.find_resumable(folder.recipe, *self.store.places)
        """the checkpoint to resume from, None for a new run"""
        self.step = checkpoints.step_of(self.resume_from) if self.resume_from else 0
        """the last completed step"""
        self.stop_code = 0
        """the exit code with which the run must stop early, 0 otherwise"""
        self.is_last = False
        """whether no step follows the last completed one, because the run ends or must stop"""
        self.phase = ""
        """the current phase of the step, if the loop names its phases"""
        self.needs: DiskNeeds | None = None
        """the disk space that the run needs; set by `begin`"""
        self._logs: list[StepLog] = []
        self._steps_here = 0
        self._console: Steps | None = None
        if is_main_process():
            self.store.open()
            self.metrics = MetricsLog(folder.path / "metrics.jsonl", self.step)
            self._logs.append(self.metrics)

    @property
    def console(self) -> Steps:
        """The progress display, which `begin` starts."""
        assert self._console is not None, "before `begin`"
        return self._console

    def open_log(self, name: str) -> StepLog:
        """Open a log in the run folder before the first step (rank 0 only). Every checkpoint syncs it to disk."""
        self._logs.append(StepLog(self.folder.path / name, self.step))
        return self._logs[-1]

    @contextmanager
    def interruptible(self, accelerator: Accelerator) -> Iterator[None]:
        """Make signals within the block stop the run after its current step."""
        self.accelerator = accelerator
        if self.resume_from and is_main_process():
            print(f"{self.folder.path}: continuing from {self.resume_from.name}", flush=True)
        try:
            with Interruption(accelerator, self.limit, self._waiting) as self.interruption:
                yield
        finally:
            if self._console is not None:
                self._console.stop()

    def _waiting(self) -> str:
        """Return what a stopping run is still waiting for, and what a second signal does."""
        phase = f"phase {self.phase}, " if self.phase else ""
        longest = self.limit.longest("save" if self.is_last else "step")
        before = "" if longest is None else f"; the longest before it took {longest:.0f} s"
        newest = checkpoints.newest(*self.store.places)
        way_on = f"continues from {newest.name}" if newest else "starts over"
        end = f"checkpoint-{self.step} to be saved" if self.is_last else f"step {self.step + 1} to end"
        return (
            f"still waiting for {end} ({phase}{self.limit.so_far:.0f} s so far{before}); "
            f"a second signal exits immediately, and the same command then {way_on}"
        )

    def begin(self, total: int, needs: DiskNeeds) -> None:
        """Start the progress display of a run of `total` steps, and the time measurement of its first step.

        Raises RunError if the disk is too small for what the run `needs`.
        """
        self.total, self.needs = total, needs
        if is_main_process() and self.step < total:
            check_disk(needs, self.folder.path, self.store.write_folder, resumes=self.resume_from is not None)
        if is_main_process():
            # Not earlier: if a longer run is refused (say, its data has changed), the finished run stays as it was.
            self.folder.finished.unlink(missing_ok=True)
        self._console = Steps(self.stage, total, self.step, enabled=is_main_process())
        self._console.start()
        self.limit.begin()

    def end_step(self, step: int) -> bool:
        """Record that a step is complete; return whether the run must save it and stop (collective)."""
        self.step = step
        self._estimate(self.limit.so_far)
        self.limit.lap("step")
        self.limit.took("copy", self.store.copy_seconds)
        code = self.interruption.code()
        # After the last step there is nothing left to resume.
        self.stop_code = 0 if code == OUT_OF_TIME and step >= self.total else code
        self.is_last = self.stop_code != 0 or step >= self.total
        return self.stop_code != 0

    def _estimate(self, seconds: float) -> None:
        """Print how long the run will take, after its third step here, if that is worth a line."""
        self._steps_here += 1
        left = self.total - self.step
        if self._steps_here == STEPS_BEFORE_ESTIMATE and left * seconds > SHORT_RUN_SECONDS:
            self.console.say(
                f"a step takes about {seconds:.3g} s: {left * seconds / 60:,.0f} minutes for the {left:,} steps left, "
                "without evaluations and checkpoints"
            )

    @contextmanager
    def checkpoint(self, best: int | None = None) -> Iterator[Path]:
        """Yield a hidden folder for all ranks to write into; it becomes `checkpoint-N` after the block (collective).

        `best` is the step of the best checkpoint, which is kept however old it is.
        """
        final = self.store.write_folder / f"checkpoint-{self.step}"
        partial = checkpoints.partial_of(final)
        with self.written_by_all(final, partial):
            yield partial
        self.seal(partial, final, best)

    @contextmanager
    def written_by_all(self, final: Path, folder: Path) -> Iterator[None]:
        """Create `folder`, which all ranks write into within the block and which will become `final` (collective)."""
        with self.writing(final):
            if is_main_process():
                checkpoints.begin(folder)
            self.accelerator.wait_for_everyone()
            yield

    def seal(self, written: Path, final: Path, best: int | None = None) -> None:
        """Mark a checkpoint that all ranks have written as complete and rename it to `final` (collective).

        `best` is the step of the best checkpoint, which is kept however old it is.
        """
        self.accelerator.wait_for_everyone()  # each rank writes its shard
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
        """Raise RunError if the block fails to write something, and remove a partial checkpoint."""
        try:
            yield
        except WRITE_ERRORS as error:
            if out_of_memory(error):
                raise
            why = write_failure(error, path, self.needs)
            if is_main_process():
                checkpoints.discard_partial(self.store.write_folder)
            newest = checkpoints.newest(*self.store.places)
            way_on = f"continues from {newest.name}" if newest else "starts over"
            raise RunError(
                f"{path} cannot be written ({why}); make room or fix the folder's permissions, "
                f"then the same command {way_on}"
            ) from None

    def find_best(self, step: int) -> Path:
        """Return the checkpoint of the best step so far. Raises RunError if it is missing."""
        found = self.store.find(step)
        if found is None:
            raise RunError(
                f"{self.folder.path}: checkpoint-{step}, the best so far, is missing; "
                "restore it, or name another run.dir"
            )
        return found

    def leave(self) -> NoReturn:
        """End a run that must stop, after its step was saved (collective). Raises SystemExit with the stop code."""
        if is_main_process():
            self.store.wait()
        self.interruption.leave(self.folder.path / f"checkpoint-{self.step}", self.stop_code)

    def write_model(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write the folder of a finished model atomically, on rank 0.

        The folder of a shorter run is removed, or renamed if it contains files that no run wrote.
        """
        path = self.folder.path / name

        def write_and_compare(partial: Path) -> None:
            write(partial)
            known = {Path(hub.PUSHED_CARD), *(file.relative_to(partial) for file in partial.rglob("*"))}
            if any(file.relative_to(path) not in known for file in path.rglob("*")):
                checkpoints.set_aside(path, "contains files that this run does not write")

        if is_main_process():
            with self.writing(path):
                durable.write_folder(path, write_and_compare)

    def finish(self, best: dict[str, Any] | None = None) -> None:
        """Mark the run as finished, end its process group, then push (collective).

        `best` describes the checkpoint that the model is from (`Best.as_dict`), if the run selects one. The push comes
        last, so that no other rank waits for it.
        """
        if is_main_process():
            self.store.wait()
            self.folder.finish(self.step, self.metrics.elapsed_seconds, "steps", best)
            self.store.clear()
        leave_group(self.accelerator)
        if is_main_process():
            hub.push_after(self.folder, self.run)
