"""A few steps of a real stage, timed and counted; the run is given up after them, so that nothing of it is saved."""

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

# Steps before those that are timed.
WARM = 2


class EnoughError(Exception):
    """All steps that were asked for are done."""


class StepTimes:
    """When each optimiser step ended, and the tokens that went through the model in it (PPO: that were written).

    Time is from the end of one step to that of a later one, so it holds the loader, the optimiser and the log.
    """

    def __init__(self, steps: int, seconds: float):
        self.steps, self.deadline = steps, time.perf_counter() + seconds
        self.ends: list[float] = []
        self.tokens: list[int] = []
        self.phases: list[dict[str, float]] = []
        """seconds of PPO's parts in each step"""
        self.peak = 0
        """bytes, before anything is saved"""

    @property
    def timed(self) -> int:
        return max(len(self.ends) - WARM, 0)

    @property
    def seconds(self) -> float:
        """Of a step."""
        return (self.ends[-1] - self.ends[WARM - 1]) / self.timed

    @property
    def tokens_a_step(self) -> float:
        return sum(self.tokens[WARM:]) / self.timed

    def phase(self, name: str) -> float:
        """Seconds of a part of a step."""
        return sum(phases[name] for phases in self.phases[WARM:]) / self.timed

    def ended(self, tokens: int) -> None:
        """A step has. Raises EnoughError after as many as were asked for, or if the next would end too late."""
        synchronise()
        self.ends.append(time.perf_counter())
        self.tokens.append(tokens)
        self.peak = peak_memory()
        next_end = 2 * self.ends[-1] - self.ends[-2] if len(self.ends) > 1 else 0.0
        if self.timed >= self.steps or (self.timed and next_end > self.deadline):
            raise EnoughError

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Any stage that runs in this process. All answers of PPO count as finished, so that all are scored: at random
        weights hardly one ends by itself."""
        step, after, log = Trainer.training_step, RunCallback.on_step_end, Loop.log
        generate = OwnEngine.generate
        seen = [0]

        def training_step(trainer: Trainer, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
            seen[0] += inputs["input_ids"].numel()
            return step(trainer, model, inputs, *rest)

        def on_step_end(callback: RunCallback, *rest: Any, **named: Any) -> None:
            after(callback, *rest, **named)
            tokens, seen[0] = seen[0], 0
            self.ended(tokens)

        def logged(loop: Loop, metrics: dict[str, float], *rest: Any) -> None:
            log(loop, metrics, *rest)
            self.phases.append({k: v for k, v in loop.lifecycle.metrics.rows[-1].items() if k.endswith("_seconds")})
            self.ended(int(metrics["tokens"]))

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
