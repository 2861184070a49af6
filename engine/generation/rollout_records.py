"""The records of a PPO run's rollouts.jsonl."""

from dataclasses import asdict, dataclass, field
from typing import Any


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
