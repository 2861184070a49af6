"""Track the best checkpoint of a run by one of its metrics; on a tie the earliest wins."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Best:
    """The best checkpoint so far. It is saved with every checkpoint, so that a resumed run has it."""

    metric: str
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

    def as_dict(self) -> dict[str, Any]:
        """Return what finished.json stores."""
        return {"step": self.step, "metric": self.metric, "value": self.value, "measured": self.measured}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value, "measured": self.measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.value, self.measured = state["step"], state["value"], state["measured"]


def describe_best(best: dict[str, Any]) -> str:
    """Return `Best.as_dict()` as text that completes "the model is that of"."""
    return f"step {best['step']:,}, the best of {best['measured']} by {best['metric']} ({best['value']:.3g})"
