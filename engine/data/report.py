"""The report on a data key's records: how many were kept, cut and dropped, and why."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from chatml import RecordError
from config import RecipeError
from config.data import OnBadRecord

BAD = "unreadable"
TOO_LONG = "too long"
NOTHING_TO_TRAIN = "nothing to train on"
EQUAL_SIDES = "equal sides"

_WAYS_OUT = {
    BAD: "correct them, or how they are read (data.fields); the first is {bad}",
    TOO_LONG: "raise {limit}, or choose another data.too_long",
    NOTHING_TO_TRAIN: "look at chatml.mask, chatml.train_on and `train: false` in the records, or raise {limit}",
    EQUAL_SIDES: "look at whether chosen and rejected are what they should be",
}
PERCENTILES = (50, 90, 99, 100)
MAX_BAD_SHOWN = 20  # bad records that are listed one by one
MAX_FILES_SHOWN = 8


@dataclass
class Report:
    """Counts of one data key or of a part of it; `add` merges parts. Each record counts once."""

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
    cut_tokens: int = 0
    """tokens that were cut off records that were kept"""
    dropped_tokens: Counter[str] = field(default_factory=Counter)
    """tokens of the records of which nothing is left, by reason; those of bad records are not known"""
    lengths: Counter[int] = field(default_factory=Counter)
    """records by their tokens before anything was cut; of a pair the longer side's"""
    bad: list[str] = field(default_factory=list)
    """what is wrong with the first bad records that were skipped"""
    spelled_ends: Counter[str] = field(default_factory=Counter)
    """documents of plain text that hold an end token spelled out, by its spelling"""
    read_from: list[str] = field(default_factory=list)
    """files, or names of data sets, that the records come from"""
    left_out: list[str] = field(default_factory=list)
    """what lies beside them in a source's folder and is not read"""

    def keep(self, tokens: int, whole: int, trained: int = 0, rows: int = 1) -> None:
        """Count a record of `whole` tokens of which `tokens` are in rows."""
        self.kept += 1
        self.cut += tokens < whole
        self.rows += rows
        self.tokens += tokens
        self.trained_tokens += trained
        self.cut_tokens += whole - tokens

    def drop(self, reason: str, tokens: int) -> None:
        self.dropped[reason] += 1
        self.dropped_tokens[reason] += tokens

    def refuse(self, where: str, error: RecordError, policy: OnBadRecord) -> None:
        """Count a record that cannot be read, or raise RecipeError, as `policy` says."""
        if policy == "error":
            raise RecipeError(f"{where}: {error}; correct it, or set data.on_bad_record=skip")
        self.dropped[BAD] += 1
        self.bad = [*self.bad, f"{where}: {error}"][:MAX_BAD_SHOWN]

    def add(self, other: "Report") -> None:
        """Add the counts of a report on the records that follow these."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        self.bad = self.bad[:MAX_BAD_SHOWN]

    def text(self, name: str) -> str:
        """Return a few lines of text: records, tokens, lengths, and the first bad records."""
        dropped = sum(self.dropped.values())
        rows = f" in {self.rows:,} rows" if self.rows != self.kept else ""
        trained = f" ({self.trained_tokens:,} trained on)" if self.trained_tokens else ""
        lines = [
            f"{name}: {self.kept:,} of {self.read:,} records kept{f' ({self.cut:,} cut)' if self.cut else ''}{rows}, "
            f"{dropped:,} dropped{f' ({_listed(self.dropped)})' if dropped else ''}",
            f"  tokens: {self.tokens:,} kept{trained}, {self.cut_tokens:,} cut off, "
            f"{sum(self.dropped_tokens.values()):,} dropped",
        ]
        if self.lengths:
            told = (f"{length:,}" for length in self.percentiles().values())
            lines.append("  tokens in a record: half have up to {}, 90 % {}, 99 % {}, the longest {}".format(*told))
        lines += [
            f"  warning: {count:,} {'document spells' if count == 1 else 'documents spell'} {name}, which stays text; "
            f"if it stands between documents, set data.document_end='{name}'"
            for name, count in self.spelled_ends.most_common()
        ]
        if len(self.read_from) > 1 or self.left_out:
            lines.append(f"  read from: {_shown(self.read_from)}")
        if self.left_out:
            lines.append(f"  left out: {_shown(self.left_out)}")
        lines += [f"  skipped: {line}" for line in self.bad]
        if self.dropped[BAD] > len(self.bad):
            lines.append(f"  skipped: {self.dropped[BAD] - len(self.bad):,} more")
        return "\n".join(lines)

    def percentiles(self) -> dict[int, int]:
        """Percentile -> the smallest length that as many percent of the records do not exceed."""
        total, seen, wanted, found = sum(self.lengths.values()), 0, list(PERCENTILES), {}
        for length, count in sorted(self.lengths.items()):
            seen += count
            while wanted and 100 * seen >= wanted[0] * total:
                found[wanted.pop(0)] = length
        return found

    def as_dict(self) -> dict[str, Any]:
        """For the run folder: the lengths as percentiles."""
        lengths = {f"p{percent}": length for percent, length in self.percentiles().items()}
        return {**self.as_json(), "lengths": lengths}

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Report":
        """What `as_json` gave, once it has been JSON."""
        lengths = Counter({int(length): count for length, count in values["lengths"].items()})
        counted = {name: Counter(values[name]) for name in ("dropped", "dropped_tokens", "spelled_ends")}
        return cls(**{**values, **counted, "lengths": lengths})

    def check(self, key: str, limit: str) -> None:
        """Raises RecipeError where less than half of what was read is kept. `limit` is the key that bounds lengths."""
        if self.read == 0:
            raise RecipeError(f"{key}: no records; name a source that holds some")
        if 2 * self.kept < self.read:
            (reason, _), *_ = self.dropped.most_common(1)
            way_out = _WAYS_OUT[reason].format(limit=limit, bad=next(iter(self.bad), None))
            raise RecipeError(
                f"{key}: only {self.kept:,} of {self.read:,} records are kept ({_listed(self.dropped)}); {way_out}"
            )


def total(reports: Iterable[Report]) -> Report:
    """Return the reports of all parts of a data key as one."""
    whole = Report()
    for report in reports:
        whole.add(report)
    return whole


def _shown(names: list[str]) -> str:
    more = len(names) - MAX_FILES_SHOWN
    return ", ".join(names[:MAX_FILES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
