"""Track the best checkpoint of a run by one of its metrics (on a tie the earliest wins), and when to stop early.

Whether to stop is a function of steps, so a run that was killed stops at the same step as one that was not.
"""

import math
from dataclasses import dataclass
from typing import Any


@dataclass
class Best:
    """The best checkpoint so far. It is saved with every checkpoint, so that a resumed run has it."""

    metric: str
    patience: int | None = None
    """number of checkpoints in a row without a better one after which the run ends; None: it does not end early"""
    counts_from: int = 0
    """step from which these checkpoints count"""
    step: int | None = None
    """None until a checkpoint has a finite value"""
    value: float = float("-inf")
    measured: int = 0
    """number of checkpoints compared"""

    def compare(self, step: int, value: float) -> None:
        """Make the checkpoint of `step` the best if its value is the highest so far. NaN is never the highest."""
        self.measured += 1
        if value > self.value:
            self.step, self.value = step, value

    def ends_run(self, step: int, save_steps: int) -> bool:
        """Return whether the run ends early after `step`, with a checkpoint every `save_steps` steps."""
        best = max(self.step or 0, self.counts_from)
        return self.patience is not None and is_spent(self.patience, step, best, save_steps)

    def as_dict(self) -> dict[str, Any]:
        """Return what finished.json stores."""
        return {"step": self.step, "metric": self.metric, "value": self.value, "measured": self.measured}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value, "measured": self.measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.value, self.measured = state["step"], state["value"], state["measured"]


def is_spent(patience: int, step: int, best: int, save_steps: int) -> bool:
    """Return whether `patience` checkpoints after the `best` step were no better, at `step`."""
    return step // save_steps - math.ceil(best / save_steps) >= patience


def describe_stop(metric: str, step: int, best: int | None, patience: int) -> str:
    """Return the line about a run that ends early."""
    since = f"better than that of step {best:,}" if best else "finite"
    return f"early stopping at step {step:,}: no {metric} {since} in {patience} checkpoints"


def describe_best(best: dict[str, Any]) -> str:
    """Return `Best.as_dict()` as text that completes "the model is that of"."""
    return f"step {best['step']:,}, the best of {best['measured']} by {best['metric']} ({best['value']:.3g})"
