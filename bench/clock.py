"""What a run of a transformers Trainer, ours or TRL's, takes: tokens a second and memory, once it is going."""

import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import Trainer

from bench.row import Figures
from engine.dist.devices import peak_memory

# Calls of `training_step` before the clock starts.
UNTIMED = 4


class Clock:
    """Watches every `Trainer.training_step` from the moment it is made.

    A token is one that is no padding. Time is from the start of one call to the start of a later one, so it holds the
    optimiser, the loader and the log; memory is the peak above what was there before the first call.
    """

    def __init__(self) -> None:
        self._starts: list[float] = []
        self._tokens: list[int] = []
        step = Trainer.training_step

        def watched(trainer: Trainer, model: torch.nn.Module, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
            if not self._starts:
                self._before = begin_peak()
            mask = inputs.get("attention_mask")
            self._tokens.append(inputs["input_ids"].numel() if mask is None else int(mask.sum()))
            self._starts.append(time.perf_counter())
            return step(trainer, model, inputs, *rest)

        Trainer.training_step = watched

    def figures(self) -> Figures:
        """Once the run is over; its last call is not timed."""
        seconds = self._starts[-1] - self._starts[UNTIMED]
        return {
            "tokens_per_second": sum(self._tokens[UNTIMED:-1]) / seconds,
            "peak_mib": (peak_memory() - self._before) / 2**20,
        }


def begin_peak() -> int:
    """Forget the peak so far; bytes in use now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss
