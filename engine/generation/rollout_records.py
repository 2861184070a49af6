"""The records of a PPO run's rollouts.jsonl: one dataclass for writing and reading them."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.files import jsonl

ROLLOUTS = "rollouts.jsonl"


@dataclass(frozen=True)
class RolloutRecord:
    """One response of one training step."""

    step: int
    record: dict[str, Any]
    """the record that the prompt was read from"""
    prompt: str
    """as the model read it, including control tokens"""
    response: str
    """as the model generated it, including its end token"""
    score: float
    """as PPO used it: normalised, penalised and clipped"""
    kl: float
    """nats: log π_old − log π_ref, summed over the response's tokens"""
    scores: dict[str, float] = field(default_factory=dict)
    """raw score by each part of a mix of rewards; empty without a mix, or if the response has not ended"""

    def as_row(self) -> dict[str, Any]:
        """Return the record as a dict for JSON, without empty `scores`."""
        row = asdict(self)
        if not self.scores:
            del row["scores"]
        return row


def read_rollouts(run: Path) -> list[RolloutRecord]:
    """Read the rollouts of a run folder; return an empty list if it has none."""
    return [RolloutRecord(**row) for row in jsonl.read(run / ROLLOUTS)]
