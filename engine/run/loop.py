"""The training loop of stages that do not use a TRL trainer. It may be killed at any time and resumes bit for bit.

A checkpoint contains the trained models with their optimisers and the named `state` objects of the stage
(engine/run/training_state.py). Data needs no state: its order is a function of seed and step (engine/data/order.py).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from config.sections import TrainingRun
from engine.dist import devices
from engine.dist.collectives import count_waits
from engine.dist.sharding import sharding_of
from engine.run import training_state
from engine.run.best import Best, describe_stop
from engine.run.disk_space import disk_needs
from engine.run.folder import RunFolder
from engine.run.lifecycle import Lifecycle
from engine.run.metrics import StepLog
from engine.run.training_state import Stateful, Trained


class Loop:
    """One run: `for step in loop.steps(n)`, with metrics, rollouts and checkpoints, then `finish`.

    Args:
        trained: name → (model, optimiser), prepared by accelerate; saved with every checkpoint.
        state: name → object with `state_dict` and `load_state_dict`; saved as well.
        best: tracks the best checkpoint, which is kept however old it is. A run that resumes raises RunError if that
            checkpoint is missing.
    """

    def __init__(
        self,
        stage: str,
        folder: RunFolder,
        run: TrainingRun,
        accelerator: Accelerator,
        trained: Trained,
        state: Mapping[str, Stateful],
        best: Best | None = None,
    ):
        self.run, self.accelerator, self.trained, self.best = run, accelerator, trained, best
        self.state = {**state, "best": best} if best else state
        self.lifecycle = Lifecycle(stage, folder, run)
        accelerator.wait_for_everyone()
        if self.lifecycle.resume_from is not None:
            training_state.load(self.lifecycle.resume_from, trained, self.state, sharding_of(accelerator))
        if run.report_to:
            accelerator.init_trackers(stage)
        if accelerator.is_main_process:
            self._rollouts = self.lifecycle.open_log("rollouts.jsonl")
            self._warnings = self.lifecycle.open_log("warnings.jsonl")

    def steps(self, total: int) -> Iterator[int]:
        """Yield the remaining steps, counted from 1. Every `run.save_steps`-th step and the last one are saved.

        The run ends early if `best` says so. After a signal, or when `run.max_hours` is nearly over, the step is saved
        and SystemExit is raised (engine/run/interruption.py).
        """
        self.total = total
        if self.best and self.best.step:
            self.lifecycle.find_best(self.best.step)  # fail now rather than at the end
        with self.lifecycle.interruptible(self.accelerator):
            self.lifecycle.begin(total, disk_needs(self.trained.values()))
            for step in range(self.lifecycle.step + 1, total + 1):
                if self.best and self.best.patience and self.best.ends_run(step - 1, self.run.save_steps):
                    self.show(describe_stop(self.best.metric, step - 1, self.best.step, self.best.patience))
                    return
                self.step = step
                self._seconds: dict[str, float] = {}
                self._began = time.perf_counter()
                yield self.step
                stop = self.lifecycle.end_step(self.step)
                if stop or self._is_saved():
                    with self.lifecycle.checkpoint(self.best.step if self.best else None) as folder:
                        training_state.save(folder, self.trained, self.state, sharding_of(self.accelerator))
                if stop:
                    self.lifecycle.leave()

    def _is_saved(self) -> bool:
        """Return whether the current step is saved by schedule, not because the run must stop."""
        return self.step % self.run.save_steps == 0 or self.step == self.total

    def compare(self, metrics: Mapping[str, float]) -> None:
        """Compare the current step, if it is saved, with the best so far; `metrics` must have `best.metric`."""
        if self.best and self._is_saved():
            self.best.compare(self.step, metrics[self.best.metric])

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Time a phase of the current step as the metric `name`, without the wait for slower ranks (collective)."""
        began = time.perf_counter()
        self.lifecycle.phase = name.removesuffix("_seconds")
        with count_waits() as waits:
            yield
        self._seconds[name] = time.perf_counter() - began - waits.seconds
        self.accelerator.wait_for_everyone()  # otherwise the next phase would include the wait for this one
        self.lifecycle.phase = ""

    def log(self, metrics: dict[str, float], watch: Sequence[str], in_words: Mapping[str, str]) -> None:
        """Write the step's metrics to metrics.jsonl and show those named in `watch` (collective).

        `metrics` must have `tokens`, the number of tokens that the step generated. `in_words` maps metrics to texts
        that are shown instead of their values.
        """
        seconds = time.perf_counter() - self._began
        row = {
            "step": self.step, **metrics, **self._phases(), "step_seconds": seconds,
            "tokens_per_second": metrics["tokens"] / seconds, "peak_memory": devices.peak_memory(),
        }  # fmt: skip
        self.accelerator.log(row, step=self.step)
        if self.accelerator.is_main_process:
            with self.lifecycle.writing(self.lifecycle.metrics.path):
                self.lifecycle.metrics.append(row)
            self.lifecycle.console.row(self.step, {name: in_words.get(name, row[name]) for name in watch})

    def _phases(self) -> dict[str, float]:
        """Return the seconds of each phase, maximum and mean over ranks, and the sum of their differences."""
        if self.accelerator.num_processes == 1:
            return self._seconds
        if not self.accelerator.is_main_process:  # goes to the rank's own log, which shows which rank is slow
            text = ", ".join(f"{name} {seconds:.3f}" for name, seconds in self._seconds.items())
            print(f"step {self.step}: {text}", flush=True)
        own = torch.tensor(list(self._seconds.values()), device=self.accelerator.device)
        each = self.accelerator.gather(own).view(self.accelerator.num_processes, -1)  # (ranks, phases)
        slowest, mean = each.amax(0), each.mean(0)
        means = [name.replace("_seconds", "_mean_seconds") for name in self._seconds]
        return {
            **dict(zip(self._seconds, slowest.tolist(), strict=True)),
            **dict(zip(means, mean.tolist(), strict=True)),
            "straggler_seconds": float((slowest - mean).sum()),
        }

    def warn(self, rules: Callable[[list[dict[str, Any]]], dict[str, str]]) -> None:
        """Print and log the warnings that `rules` find in the metrics, except those found one step ago."""
        if self.accelerator.is_main_process:
            metrics = self.lifecycle.metrics.rows
            before, rows = rules(metrics[:-1]), []
            for name, text in rules(metrics).items():
                if name not in before:
                    rows.append({"warning": name, "text": text})
                    self.lifecycle.console.say(f"warning: {name} at step {self.step}: {text}")
            self._append(self._warnings, rows)

    def show(self, text: str) -> None:
        """Print a text above the progress line."""
        if self.accelerator.is_main_process:
            self.lifecycle.console.say(text)

    def log_rollouts(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rollouts of the step to rollouts.jsonl."""
        if self.accelerator.is_main_process:
            self._append(self._rollouts, rows)

    def _append(self, log: StepLog, rows: Sequence[dict[str, Any]]) -> None:
        with self.lifecycle.writing(log.path):
            for row in rows:
                log.append({"step": self.step, **row})

    def load_best(self) -> None:
        """Load the best checkpoint into the trained models, after the last step (collective)."""
        if self.best is None:
            return
        if self.best.step is None:
            self.show(f"warning: {self.best.metric} was never finite, so the model is that of the last step")
        elif self.best.step != self.lifecycle.step:
            if self.accelerator.is_main_process:
                self.lifecycle.store.wait()  # otherwise the copy thread could remove it
            self.accelerator.wait_for_everyone()
            checkpoint = self.lifecycle.find_best(self.best.step)
            for name, (model, optimizer) in self.trained.items():
                weights = checkpoint / name / training_state.WEIGHTS
                training_state.read(weights, model, optimizer, sharding_of(self.accelerator))

    def write_model(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write the folder of a finished model atomically."""
        self.lifecycle.write_model(name, write)

    def finish(self) -> None:
        """Mark the run as finished, end its process group, then push (collective)."""
        self.lifecycle.finish(self.best.as_dict() if self.best and self.best.step else None)
