"""Time a few steps of a real stage; the run is then abandoned, so it saves nothing."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from transformers import Trainer

from engine.dist.devices import peak_memory, synchronise
from engine.generation.engines import OwnEngine
from engine.generation.request import GenerationRequest, Response
from engine.run.loop import Loop
from engine.run.trainer import RunCallback

# Steps before the timed ones.
WARMUP_STEPS = 2


class EnoughError(Exception):
    """Raised to abandon the run when all steps are timed."""


class StepTimes:
    """The end time and the token count of each optimiser step.

    Tokens are those that go through the model; for PPO those that are generated. Time runs from the end of one step to
    the end of a later one, so it includes the data loader, the optimiser and the log.

    Args:
        steps: how many steps to time, after WARMUP_STEPS.
        seconds: time limit; at least one step is timed.
    """

    def __init__(self, steps: int, seconds: float):
        self.steps, self.deadline = steps, time.perf_counter() + seconds
        self.ends: list[float] = []
        self.tokens: list[int] = []
        self.phases: list[dict[str, float]] = []
        """for each step the seconds of PPO's phases, by metric name"""
        self.peak = 0
        """peak memory in bytes at the end of the last step, before anything is saved"""

    @property
    def num_timed(self) -> int:
        return max(len(self.ends) - WARMUP_STEPS, 0)

    @property
    def seconds_per_step(self) -> float:
        """Mean seconds of a timed step."""
        return (self.ends[-1] - self.ends[WARMUP_STEPS - 1]) / self.num_timed

    @property
    def tokens_per_step(self) -> float:
        return sum(self.tokens[WARMUP_STEPS:]) / self.num_timed

    def phase_seconds(self, name: str) -> float:
        """Return the mean seconds of a phase over the timed steps; `name` is its metric, such as sample_seconds."""
        return sum(phases[name] for phases in self.phases[WARMUP_STEPS:]) / self.num_timed

    def end_step(self, tokens: int) -> None:
        """Record the end of a step. Raises EnoughError after the last, or if the next would exceed the time limit."""
        synchronise()
        self.ends.append(time.perf_counter())
        self.tokens.append(tokens)
        self.peak = peak_memory()
        next_end = 2 * self.ends[-1] - self.ends[-2] if len(self.ends) > 1 else 0.0
        if self.num_timed >= self.steps or (self.num_timed and next_end > self.deadline):
            raise EnoughError

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the steps of any stage that runs in this context, and end it without an error after the last one.

        All responses of PPO count as finished, so that all are scored: with random weights hardly any ends by itself.
        """
        step, after, log = Trainer.training_step, RunCallback.on_step_end, Loop.log
        generate = OwnEngine.generate
        seen = [0]

        def training_step(trainer: Trainer, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            seen[0] += inputs["input_ids"].numel()
            return step(trainer, model, inputs, *rest)

        def on_step_end(callback: RunCallback, *rest: Any, **named: Any) -> None:
            after(callback, *rest, **named)
            tokens, seen[0] = seen[0], 0
            self.end_step(tokens)

        def logged(loop: Loop, metrics: dict[str, float], *rest: Any) -> None:
            log(loop, metrics, *rest)
            self.phases.append({k: v for k, v in loop.lifecycle.metrics.rows[-1].items() if k.endswith("_seconds")})
            self.end_step(int(metrics["tokens"]))

        def all_ended(engine: OwnEngine, request: GenerationRequest) -> list[list[Response]]:
            return [[replace(response, ended=True) for response in group] for group in generate(engine, request)]

        with (
            patch.object(Trainer, "training_step", training_step),
            patch.object(RunCallback, "on_step_end", on_step_end),
            patch.object(Loop, "log", logged),
            patch.object(OwnEngine, "generate", all_ended),
        ):
            try:
                yield
            except EnoughError:
                return
