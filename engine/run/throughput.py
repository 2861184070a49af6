"""How fast a trainer's steps are, and how unevenly processes fare: tokens, and seconds of the forward passes.

Gradients are averaged at the end of the backward pass, where all processes wait for the slowest: what each needs on its
own shows before that. Under sharding (FSDP, ZeRO-3) they wait within the forward pass as well, and little shows.
"""

import time
from typing import Any

import torch
from accelerate import Accelerator


class Throughput:
    """Counts what goes through a model in training; `figures` tells of what went through since it told last."""

    def __init__(self, model: torch.nn.Module):
        self._tokens, self._seconds, self._forward = 0, 0.0, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after, with_kwargs=True)

    def begin(self) -> None:
        """What comes from now on is a step's, until `end`; what lies between an end and a beginning is none's."""
        self._began = time.perf_counter()

    def end(self) -> None:
        now = time.perf_counter()
        self._seconds += now - self._began
        self._began = now

    def _before(self, model: torch.nn.Module, _: Any, inputs: dict[str, Any]) -> None:
        if model.training:
            self._tokens += inputs["input_ids"].numel()
            self._started = self._mark()

    def _after(self, model: torch.nn.Module, *_: Any) -> None:
        if model.training:
            ended = self._mark()
            if isinstance(ended, float):
                self._forward += ended - self._started
            else:
                self._events.append((self._started, ended))

    def _mark(self) -> "float | torch.cuda.Event":
        """Now: on a GPU an event among its work, for what Python sees is when work is asked for."""
        if not torch.cuda.is_available():
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def figures(self, accelerator: Accelerator) -> dict[str, float]:
        """Asked by all processes at the same point, after an `end`."""
        if self._events:
            torch.cuda.synchronize()
        forward = self._forward + sum(one.elapsed_time(other) for one, other in self._events) / 1000
        own = torch.tensor([self._tokens, forward], dtype=torch.float64, device=accelerator.device)
        each = accelerator.gather(own).view(accelerator.num_processes, 2)
        figures = {"tokens_per_second": float(each[:, 0].sum()) / max(self._seconds, 1e-9)}
        if accelerator.num_processes > 1:
            slowest, mean = float(each[:, 1].max()), float(each[:, 1].mean())
            figures |= {"forward_seconds": slowest, "forward_mean_seconds": mean, "straggler_seconds": slowest - mean}
        self._tokens, self._seconds, self._forward = 0, 0.0, 0.0
        self._events.clear()
        return figures
