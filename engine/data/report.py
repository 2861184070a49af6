"""The account of what became of a data key's records: printed, and kept in the run folder."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from recipes import RecipeError

TOO_LONG = "too long"
NOTHING_TO_TRAIN = "nothing to train on"
EQUAL_SIDES = "equal sides"

_WAYS_OUT = {
    TOO_LONG: "raise {limit}, or choose another data.too_long",
    NOTHING_TO_TRAIN: "look at chatml.mask and at `train: false` in the records, or raise {limit}",
    EQUAL_SIDES: "look at whether chosen and rejected are what they should be",
}


@dataclass
class Report:
    """Counts of one data key. A record taken several times, by its source's weight, counts as often."""

    read: int = 0
    """records that were read"""
    kept: int = 0
    """records of which something became a row"""
    cut: int = 0
    """records among the kept that lost turns or tokens to the length limit"""
    dropped: Counter[str] = field(default_factory=Counter)
    """records of which nothing is left, by reason"""
    rows: int = 0
    """rows; more than `kept` where long text was split into pieces"""
    tokens: int = 0
    """tokens in the rows; of a pair both sides"""
    trained_tokens: int = 0
    """tokens that the loss falls on; 0 for pairs and prompts"""
    lost_tokens: int = 0
    """tokens of what was cut off and dropped"""

    def keep(self, tokens: int, whole: int, trained: int = 0, rows: int = 1) -> None:
        """Count a record of `whole` tokens of which `tokens` are in rows."""
        self.kept += 1
        self.cut += tokens < whole
        self.rows += rows
        self.tokens += tokens
        self.trained_tokens += trained
        self.lost_tokens += whole - tokens

    def drop(self, reason: str, tokens: int) -> None:
        self.dropped[reason] += 1
        self.lost_tokens += tokens

    def line(self, name: str) -> str:
        """One line for a person: `train: 990 of 999 records kept (4 cut), 9 dropped (9 too long); ...`."""
        dropped = sum(self.dropped.values())
        rows = f" in {self.rows:,} rows" if self.rows != self.kept else ""
        trained = f", {self.trained_tokens:,} trained on" if self.trained_tokens else ""
        return (
            f"{name}: {self.kept:,} of {self.read:,} records kept{f' ({self.cut:,} cut)' if self.cut else ''}{rows}, "
            f"{dropped:,} dropped{f' ({self._reasons()})' if dropped else ''}; "
            f"{self.tokens:,} tokens{trained}{f', {self.lost_tokens:,} lost' if self.lost_tokens else ''}"
        )

    def as_dict(self) -> dict[str, Any]:
        return {**vars(self), "dropped": dict(self.dropped)}

    def check(self, key: str, limit: str) -> None:
        """Raises RecipeError where less than half of what was read is kept. `limit` is the key that bounds lengths."""
        if self.read == 0:
            raise RecipeError(f"{key}: no records; name a source that holds some")
        if 2 * self.kept < self.read:
            (reason, _), *_ = self.dropped.most_common(1)
            raise RecipeError(
                f"{key}: only {self.kept:,} of {self.read:,} records are kept ({self._reasons()}); "
                f"{_WAYS_OUT[reason].format(limit=limit)}"
            )

    def _reasons(self) -> str:
        return ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.most_common())
