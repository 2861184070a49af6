"""Tokens per second and peak memory of a transformers Trainer, ours or TRL's, after the first steps."""

import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import Trainer

from bench.row import Figures
from engine.dist.devices import peak_memory

# Calls of `training_step` before the timing starts.
UNTIMED_STEPS = 4


class Clock:
    """Measure every `Trainer.training_step` of this process, from the creation of the clock on.

    Padding tokens are not counted. Time runs from the start of one call to the start of a later one, so it includes the
    optimiser, the data loader and the log. Memory is the peak above the memory in use before the first call.
    """

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._tokens: list[int] = []
        step = Trainer.training_step

        def watched(trainer: Trainer, model: torch.nn.Module, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
            if not self._starts:
                self._before = reset_peak_memory()
            mask = inputs.get("attention_mask")
            self._tokens.append(inputs["input_ids"].numel() if mask is None else int(mask.sum()))
            self._starts.append(time.perf_counter())
            return step(trainer, model, inputs, *rest)

        patched: Any = Trainer
        patched.training_step = watched

    def figures(self) -> Figures:
        """Return tokens per second and peak MiB of the finished run; the last call is not timed."""
        seconds = self._starts[-1] - self._starts[UNTIMED_STEPS]
        return {
            "tokens_per_second": sum(self._tokens[UNTIMED_STEPS:-1]) / seconds,
            "peak_mib": (peak_memory() - self._before) / 2**20,
        }


def reset_peak_memory() -> int:
    """Reset the peak memory of this process (of the GPU, if there is one) and return the bytes in use now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss
