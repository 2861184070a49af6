"""Measure a trainer's throughput (tokens per second) and the load balance of its ranks (seconds of forward passes).

At the end of the backward pass all ranks wait for the slowest one to average gradients, so only the forward pass shows
the time that each rank needs on its own. Under FSDP2 and ZeRO-3 ranks also wait within the forward pass, which hides
most of the difference.
"""

import time
from typing import Any

import torch
from accelerate import Accelerator


class Throughput:
    """Count the tokens and the time of a model's training steps between two calls of `figures`."""

    def __init__(self, model: torch.nn.Module):
        self._tokens = 0
        self._seconds = self._forward = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after, with_kwargs=True)

    def begin(self) -> None:
        """Start the timer. Time between `end` and `begin` is not counted."""
        self._began = time.perf_counter()

    def end(self) -> None:
        """Add the time since `begin`, or since the last `end`, as a step."""
        now = time.perf_counter()
        self._seconds += now - self._began
        self._began = now

    def _before(self, model: torch.nn.Module, _: Any, inputs: dict[str, Any]) -> None:
        if model.training:
            self._tokens += inputs["input_ids"].numel()
            self._started = self._mark()

    def _after(self, model: torch.nn.Module, *_: Any) -> None:
        if model.training:
            started, ended = self._started, self._mark()
            if isinstance(started, torch.cuda.Event) and isinstance(ended, torch.cuda.Event):
                self._events.append((started, ended))
            elif isinstance(started, float) and isinstance(ended, float):
                self._forward += ended - started

    def _mark(self) -> "float | torch.cuda.Event":
        """Return the current time; on a GPU a CUDA event, since Python sees only when work is queued."""
        if not torch.cuda.is_available():
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def figures(self, accelerator: Accelerator) -> dict[str, float]:
        """Return tokens per second and forward times since the last call (collective). Call it after `end`.

        With several ranks: maximum and mean over ranks of the forward seconds, and their difference.
        """
        if self._events:
            torch.cuda.synchronize()
        forward = self._forward + sum(one.elapsed_time(other) for one, other in self._events) / 1000
        own = torch.tensor([self._tokens, forward], dtype=torch.float64, device=accelerator.device)
        each = accelerator.gather(own).view(accelerator.num_processes, 2)
        figures = {"tokens_per_second": float(each[:, 0].sum()) / max(self._seconds, 1e-9)}
        if accelerator.num_processes > 1:
            slowest, mean = float(each[:, 1].max()), float(each[:, 1].mean())
            figures |= {"forward_seconds": slowest, "forward_mean_seconds": mean, "straggler_seconds": slowest - mean}
        self._tokens = 0
        self._seconds = self._forward = 0.0
        self._events.clear()
        return figures
