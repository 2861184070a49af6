"""The best checkpoint of a run so far, by one of its metrics; of equal ones the earliest."""

from dataclasses import dataclass
from typing import Any


@dataclass
class Best:
    """A part of the run's state, saved with every checkpoint: a run that resumes knows what it knew then."""

    metric: str
    step: int | None = None
    """None while no checkpoint has a finite measure"""
    value: float = float("-inf")
    measured: int = 0
    """checkpoints that have been compared"""

    def compare(self, step: int, value: float) -> None:
        """Take the checkpoint of `step` if its value is the highest so far; NaN never is."""
        self.measured += 1
        if value > self.value:
            self.step, self.value = step, value

    def as_dict(self) -> dict[str, Any]:
        """Return what finished.json holds of it."""
        return {"step": self.step, "metric": self.metric, "value": self.value, "measured": self.measured}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "value": self.value, "measured": self.measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.value, self.measured = state["step"], state["value"], state["measured"]


def in_words(best: dict[str, Any]) -> str:
    """Return `Best.as_dict()` in words that follow "the model is that of"."""
    return f"step {best['step']:,}, the best of {best['measured']} by {best['metric']} ({best['value']:.3g})"
