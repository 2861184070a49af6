"""The loop of a stage that is not a Trainer's: steps that can be killed at any moment and go on as if nothing had been.

What a checkpoint holds: everything accelerate prepared (weights, optimisers, random generators) and the `state` objects
handed in. Data needs no state of its own: its order is a function of seed and step (engine/data/order.py).
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from engine.run import checkpoints, devices, durable
from engine.run.console import Steps
from engine.run.folder import RunFolder
from engine.run.metrics import MetricsLog, StepLog
from recipes.sections import Run


class Loop:
    """One run: `for step in loop.steps(n)`, with metrics, samples, checkpoints and the finish beside it."""

    def __init__(self, stage: str, folder: RunFolder, run: Run, accelerator: Accelerator, state: Sequence[Any]):
        self.stage, self.folder, self.run, self.accelerator = stage, folder, run, accelerator
        self.step = 0
        self._seconds: dict[str, float] = {}
        for item in state:
            accelerator.register_for_checkpointing(item)
        if accelerator.is_main_process:
            checkpoints.discard_partial(folder.path)
        accelerator.wait_for_everyone()
        newest = checkpoints.newest(folder.path)
        if newest is not None:
            accelerator.load_state(str(newest))
            self.step = checkpoints.step_of(newest)
            accelerator.print(f"{folder.path}: continuing from {newest.name}")
        if run.report_to:
            accelerator.init_trackers(stage)
        if accelerator.is_main_process:
            self.metrics = MetricsLog(folder.path / "metrics.jsonl", self.step)
            self.samples = StepLog(folder.path / "samples.jsonl", self.step)

    def steps(self, total: int) -> Iterator[int]:
        """The steps still to do, from 1; each is checkpointed as `run.save_steps` says, the last one always."""
        self._console = Steps(self.stage, total, self.step, speaks=self.accelerator.is_main_process)
        self._console.start()
        try:
            while self.step < total:
                self.step += 1
                self._seconds.clear()
                self._began = time.perf_counter()
                yield self.step
                if self.step % self.run.save_steps == 0 or self.step == total:
                    self._checkpoint()
        finally:
            self._console.stop()

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a phase of the current step under a metric's name."""
        began = time.perf_counter()
        yield
        self._seconds[name] = time.perf_counter() - began

    def log(self, metrics: dict[str, float], watch: Sequence[str]) -> None:
        """Write the step's metrics, among them `tokens`, how many it produced; `watch` names those shown live."""
        seconds = time.perf_counter() - self._began
        row = {
            "step": self.step, **metrics, **self._seconds, "step_seconds": seconds,
            "tokens_per_second": metrics["tokens"] / seconds, "peak_memory": devices.peak_memory(),
        }  # fmt: skip
        self.accelerator.log(row, step=self.step)
        if self.accelerator.is_main_process:
            self.metrics.append(row)
            self._console.show(self.step, {name: row[name] for name in watch})

    def keep_samples(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write some of the step's samples to samples.jsonl."""
        if self.accelerator.is_main_process:
            for row in rows:
                self.samples.append({"step": self.step, **row})

    def _checkpoint(self) -> None:
        """All processes write into a hidden folder; the first one syncs, marks and renames it when all are done."""
        partial = self.folder.path / f".checkpoint-{self.step}.partial"
        final = self.folder.path / f"checkpoint-{self.step}"
        if self.accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(partial))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            checkpoints.seal(partial)
            partial.rename(final)
            durable.sync(final.parent)
            checkpoints.prune(self.folder.path, self.run.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def keep_model(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a finished model's folder in one step."""
        if self.accelerator.is_main_process:
            durable.write_folder(self.folder.path / name, write)

    def finish(self) -> None:
        """Mark the run as finished and leave together."""
        if self.accelerator.is_main_process:
            self.folder.finish(self.step, self.metrics.elapsed_seconds)
        devices.leave(self.accelerator)
