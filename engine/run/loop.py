"""The loop of a stage that is not a Trainer's: steps that can be killed at any moment and go on as if nothing had been.

A checkpoint holds what is trained and the `state` objects handed in (engine/run/training_state.py). Data needs no state
of its own: its order is a function of seed and step (engine/data/order.py).
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError

from engine.run import checkpoints, devices, durable, sharding, training_state
from engine.run.console import Steps
from engine.run.folder import RunError, RunFolder, first_line
from engine.run.interruption import Interruption
from engine.run.metrics import MetricsLog, StepLog
from engine.run.training_state import Trained
from recipes.sections import Run

# A full disk is an OSError to Python, an error of their own to safetensors and to torch's writer.
WRITE_ERRORS = (OSError, SafetensorError, RuntimeError)


class Loop:
    """One run: `for step in loop.steps(n)`, with metrics, samples, checkpoints and the finish beside it."""

    def __init__(
        self, stage: str, folder: RunFolder, run: Run, accelerator: Accelerator, trained: Trained, state: Sequence[Any]
    ):
        self.stage, self.folder, self.run, self.accelerator = stage, folder, run, accelerator
        self.trained, self.state, self.step = trained, state, 0
        self._seconds: dict[str, float] = {}
        if accelerator.is_main_process:
            checkpoints.discard_partial(folder.path)
        accelerator.wait_for_everyone()
        newest = checkpoints.to_resume(folder)
        if newest is not None:
            training_state.load(newest, trained, state, sharding.of(accelerator))
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

        After a signal to stop the step is saved, and the run leaves by SystemExit with 128 + the signal's number.
        """
        self._console = Steps(self.stage, total, self.step, speaks=self.accelerator.is_main_process)
        self._console.start()
        try:
            with Interruption(self.accelerator) as interruption:
                while self.step < total:
                    self.step += 1
                    self._seconds.clear()
                    self._began = time.perf_counter()
                    yield self.step
                    stopped_by = interruption.noted()
                    if stopped_by or self.step % self.run.save_steps == 0 or self.step == total:
                        self._checkpoint()
                    if stopped_by:
                        self._leave(stopped_by)
        finally:
            self._console.stop()

    def _leave(self, signal_number: int) -> None:
        self.accelerator.print(
            f"{self.folder.path}: saved checkpoint-{self.step}; the same command continues from there", flush=True
        )
        devices.leave(self.accelerator)
        sys.exit(128 + signal_number)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a phase of the current step under a metric's name."""
        began = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - began

    def log(self, metrics: dict[str, float], watch: Sequence[str]) -> None:
        """Write the step's metrics, among them `tokens`, how many it produced; `watch` names those that are shown."""
        seconds = time.perf_counter() - self._began
        row = {
            "step": self.step, **metrics, **self._seconds, "step_seconds": seconds,
            "tokens_per_second": metrics["tokens"] / seconds, "peak_memory": devices.peak_memory(),
        }  # fmt: skip
        self.accelerator.log(row, step=self.step)
        if self.accelerator.is_main_process:
            with self._writing(self.metrics.path):
                self.metrics.append(row)
            self._console.row(self.step, {name: row[name] for name in watch})

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
        partial = self.folder.path / f".checkpoint-{self.step}.partial"
        final = self.folder.path / f"checkpoint-{self.step}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with self._writing(final):
            partial.mkdir(exist_ok=True)
            training_state.save(partial, self.trained, self.state, sharding.of(self.accelerator))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with self._writing(final):
                for log in (self.metrics, self.samples, self.warnings):
                    durable.sync(log.path)  # a checkpoint must not outlast the lines of its steps
                checkpoints.seal(partial, self.folder.recipe)
                partial.rename(final)
                durable.sync(final.parent)
            checkpoints.prune(self.folder.path, self.run.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """What cannot be written stops the run in one line; half a checkpoint is removed, it would hold the room."""
        try:
            yield
        except WRITE_ERRORS as error:
            if self.accelerator.is_main_process:
                checkpoints.discard_partial(self.folder.path)
            newest = checkpoints.newest(self.folder.path)
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
        """Mark the run as finished and leave together."""
        if self.accelerator.is_main_process:
            self.folder.finish(self.step, self.metrics.elapsed_seconds)
        devices.leave(self.accelerator)
