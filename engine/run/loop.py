"""The loop of a stage that is not a Trainer's: steps that can be killed at any moment and go on as if nothing had been.

A checkpoint holds what is trained and the `state` objects handed in (engine/run/training_state.py). Data needs no state
of its own: its order is a function of seed and step (engine/data/order.py).
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from config.sections import TrainingRun
from engine.dist import devices, sharding
from engine.dist.collectives import Waiting
from engine.dist.ranks import leave_group
from engine.errors import RunError, first_line
from engine.files import durable
from engine.run import checkpoints, hub, training_state
from engine.run.checkpoint_store import CheckpointStore
from engine.run.console import Steps
from engine.run.folder import RunFolder
from engine.run.interruption import Interruption
from engine.run.metrics import MetricsLog, StepLog
from engine.run.time_limit import OUT_OF_TIME, TimeLimit
from engine.run.training_state import Trained

# A full disk is an OSError to Python, an error of their own to safetensors and to torch's writer.
WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)


class Loop:
    """One run: `for step in loop.steps(n)`, with metrics, samples, checkpoints and the finish beside it."""

    def __init__(
        self,
        stage: str,
        folder: RunFolder,
        run: TrainingRun,
        accelerator: Accelerator,
        trained: Trained,
        state: Sequence[Any],
    ):
        self.stage, self.folder, self.run, self.accelerator = stage, folder, run, accelerator
        self.trained, self.state, self.step = trained, state, 0
        hub.refuse_without_token(run)
        self.store = CheckpointStore(folder, run)
        self._seconds: dict[str, float] = {}
        if accelerator.is_main_process:
            self.store.open()
        accelerator.wait_for_everyone()
        newest = checkpoints.to_resume(folder.recipe, *self.store.places)
        if newest is not None:
            training_state.load(newest, trained, state, sharding.sharding_of(accelerator))
            self.step = checkpoints.step_of(newest)
            accelerator.print(f"{folder.path}: continuing from {newest.name}")
        if run.report_to:
            accelerator.init_trackers(stage)
        if accelerator.is_main_process:
            self.metrics = MetricsLog(folder.path / "metrics.jsonl", self.step)
            self.samples = StepLog(folder.path / "samples.jsonl", self.step)
            self.warnings = StepLog(folder.path / "warnings.jsonl", self.step)

    def steps(self, total: int) -> Iterator[int]:
        """The steps still to do, from 1; each is checkpointed as `run.save_steps` says, the last one always.

        After a signal to stop, and when `run.max_hours` are nearly over, the step is saved and the run leaves by
        SystemExit (engine/run/interruption.py).
        """
        self._console = Steps(self.stage, total, self.step, speaks=self.accelerator.is_main_process)
        self._console.start()
        limit = TimeLimit(self.run.max_hours)
        try:
            with Interruption(self.accelerator, limit) as interruption:
                limit.begin()
                while self.step < total:
                    self.step += 1
                    self._seconds.clear()
                    self._began = time.perf_counter()
                    yield self.step
                    limit.lap("step")
                    limit.took("copy", self.store.copy_seconds)
                    stop = interruption.noted()
                    if stop == OUT_OF_TIME and self.step == total:
                        stop = 0  # nothing is left to be continued
                    if stop or self.step % self.run.save_steps == 0 or self.step == total:
                        self._checkpoint()
                        limit.lap("save")
                    if stop:
                        if self.accelerator.is_main_process:
                            self.store.wait()
                        interruption.leave(self.folder.path / f"checkpoint-{self.step}", stop)
        finally:
            self._console.stop()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a phase of the current step under a metric's name; the next begins for all processes together."""
        began, waited = time.perf_counter(), Waiting.seconds
        yield
        self._seconds[name] = time.perf_counter() - began - (Waiting.seconds - waited)
        self.accelerator.wait_for_everyone()  # else the next phase's time would hold the waiting for this one

    def log(self, metrics: dict[str, float], watch: Sequence[str]) -> None:
        """Write the step's metrics, among them `tokens`, how many it produced; `watch` names those that are shown."""
        seconds = time.perf_counter() - self._began
        row = {
            "step": self.step, **metrics, **self._phases(), "step_seconds": seconds,
            "tokens_per_second": metrics["tokens"] / seconds, "peak_memory": devices.peak_memory(),
        }  # fmt: skip
        self.accelerator.log(row, step=self.step)
        if self.accelerator.is_main_process:
            with self._writing(self.metrics.path):
                self.metrics.append(row)
            self._console.row(self.step, {name: row[name] for name in watch})

    def _phases(self) -> dict[str, float]:
        """Seconds of each phase; of several processes the slowest one's, the mean, and what that waits in the step."""
        if self.accelerator.num_processes == 1:
            return self._seconds
        if not self.accelerator.is_main_process:  # for its log: which process is the slow one
            told = ", ".join(f"{name} {seconds:.3f}" for name, seconds in self._seconds.items())
            print(f"step {self.step}: {told}", flush=True)
        own = torch.tensor(list(self._seconds.values()), device=self.accelerator.device)
        each = self.accelerator.gather(own).view(self.accelerator.num_processes, -1)  # (processes, phases)
        slowest, mean = each.amax(0), each.mean(0)
        means = [name.replace("_seconds", "_mean_seconds") for name in self._seconds]
        return {
            **dict(zip(self._seconds, slowest.tolist(), strict=True)),
            **dict(zip(means, mean.tolist(), strict=True)),
            "straggler_seconds": float((slowest - mean).sum()),
        }

    def warn(self, rules: Callable[[list[dict[str, Any]]], dict[str, str]]) -> None:
        """Say what `rules` find in the metrics so far and did not find before this step; note it in warnings.jsonl."""
        if self.accelerator.is_main_process:
            before, rows = rules(self.metrics.rows[:-1]), []
            for name, text in rules(self.metrics.rows).items():
                if name not in before:
                    rows.append({"warning": name, "text": text})
                    self._console.say(f"warning: {name} at step {self.step}: {text}")
            self._append(self.warnings, rows)

    def show(self, text: str) -> None:
        """Put something before the person."""
        if self.accelerator.is_main_process:
            self._console.say(text)

    def keep_samples(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write some of the step's samples to samples.jsonl."""
        if self.accelerator.is_main_process:
            self._append(self.samples, rows)

    def _append(self, log: StepLog, rows: Sequence[dict[str, Any]]) -> None:
        with self._writing(log.path):
            for row in rows:
                log.append({"step": self.step, **row})

    def _checkpoint(self) -> None:
        """All processes write into a hidden folder; the first one syncs, marks and renames it when all are done."""
        partial = self.store.here / f".checkpoint-{self.step}.partial"
        final = self.store.here / f"checkpoint-{self.step}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with self._writing(final):
            partial.mkdir(exist_ok=True)
            training_state.save(partial, self.trained, self.state, sharding.sharding_of(self.accelerator))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with self._writing(final):
                for log in (self.metrics, self.samples, self.warnings):
                    durable.sync(log.path)  # a checkpoint must not outlast the lines of its steps
                checkpoints.seal(partial, self.folder.recipe)
                partial.rename(final)
                durable.sync(final.parent)
                self.store.keep(final)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """What cannot be written stops the run in one line; half a checkpoint is removed, it would hold the room."""
        try:
            yield
        except WRITE_ERRORS as error:
            if self.accelerator.is_main_process:
                checkpoints.discard_partial(self.store.here)
            newest = checkpoints.newest(*self.store.places)
            way_on = f"continues from {newest.name}" if newest else "begins again"
            raise RunError(
                f"{path} cannot be written ({first_line(error)}); make room or see to the folder's permissions, "
                f"then the same command {way_on}"
            ) from None

    def keep_model(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a finished model's folder in one step."""
        if self.accelerator.is_main_process:
            with self._writing(self.folder.path / name):
                durable.write_folder(self.folder.path / name, write)

    def finish(self) -> None:
        """Mark the run as finished and leave together; the push takes as long as it takes, and keeps nobody waiting."""
        if self.accelerator.is_main_process:
            self.store.wait()
            self.folder.finish(self.step, self.metrics.elapsed_seconds)
            self.store.clear()
        pushes = self.accelerator.is_main_process
        leave_group(self.accelerator)
        if pushes:
            hub.push_after(self.folder, self.run)
