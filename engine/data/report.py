"""The report on the records of a data key: how many were kept, cut and dropped, and why."""

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
    NOTHING_TO_TRAIN: "check chatml.mask, chatml.train_on and `train: false` in the records, or raise {limit}",
    EQUAL_SIDES: "check which fields are read as chosen and rejected (data.fields)",
}
PERCENTILES = (50, 90, 99, 100)
MAX_BAD_SHOWN = 20  # bad records that are listed
MAX_FILES_SHOWN = 8


@dataclass
class Report:
    """Counts for the records of a data key or of a part of it. Each record counts once; `add` merges parts."""

    read: int = 0
    """records read"""
    kept: int = 0
    """records with at least one row"""
    cut: int = 0
    """kept records that lost turns or tokens to the length limit"""
    dropped: Counter[str] = field(default_factory=Counter)
    """dropped records by reason"""
    rows: int = 0
    """rows; more than `kept` if long text was split"""
    tokens: int = 0
    """tokens in the rows; both sides of pairs"""
    trained_tokens: int = 0
    """tokens that are trained on; 0 for pairs and prompts"""
    cut_tokens: int = 0
    """tokens cut from kept records"""
    dropped_tokens: Counter[str] = field(default_factory=Counter)
    """tokens of dropped records by reason; those of bad records are unknown"""
    lengths: Counter[int] = field(default_factory=Counter)
    """number of records by length in tokens before cutting; the longer side of pairs"""
    bad: list[str] = field(default_factory=list)
    """errors of the first bad records that were skipped"""
    spelled_ends: Counter[str] = field(default_factory=Counter)
    """number of plain-text documents that contain the text of an end token, by that text"""
    read_from: list[str] = field(default_factory=list)
    """files or data sets that were read"""
    left_out: list[str] = field(default_factory=list)
    """files in a source's folder that were not read"""

    def keep(self, tokens: int, whole: int, trained: int = 0, rows: int = 1) -> None:
        """Count a record of `whole` tokens, of which `tokens` are in rows and `trained` are trained on."""
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
        """Count a record that cannot be read (policy "skip"), or raise RecipeError (policy "error")."""
        if policy == "error":
            raise RecipeError(f"{where}: {error}; correct it, or set data.on_bad_record=skip")
        self.dropped[BAD] += 1
        self.bad = [*self.bad, f"{where}: {error}"][:MAX_BAD_SHOWN]

    def add(self, other: "Report") -> None:
        """Add the counts of the report on the records that come next."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)
        self.bad = self.bad[:MAX_BAD_SHOWN]

    def text(self, name: str) -> str:
        """Return the report as lines of text: records, tokens, lengths, and the first bad records."""
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
            shown = (f"{length:,}" for length in self.percentiles().values())
            lines.append("  tokens in a record: half have up to {}, 90 % {}, 99 % {}, the longest {}".format(*shown))
        lines += [
            f"  warning: {count:,} {'document contains' if count == 1 else 'documents contain'} {name} as plain text; "
            f"if it separates documents, set data.document_end='{name}'"
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
        """Return percentile → the smallest length, in tokens, that this percentage of the records does not exceed."""
        total, seen, wanted, found = sum(self.lengths.values()), 0, list(PERCENTILES), {}
        for length, count in sorted(self.lengths.items()):
            seen += count
            while wanted and 100 * seen >= wanted[0] * total:
                found[wanted.pop(0)] = length
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the values for data.json of the run folder, with the lengths as percentiles."""
        lengths = {f"p{percent}": length for percent, length in self.percentiles().items()}
        return {**self.as_json(), "lengths": lengths}

    def as_json(self) -> dict[str, Any]:
        """Return all values as JSON types."""
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Report":
        """Return the report that `as_json` was called on, from decoded JSON."""
        lengths = Counter({int(length): count for length, count in values["lengths"].items()})
        counted = {name: Counter(values[name]) for name in ("dropped", "dropped_tokens", "spelled_ends")}
        return cls(**{**values, **counted, "lengths": lengths})

    def check(self, key: str, limit: str) -> None:
        """Raise RecipeError if less than half of the records are kept. `limit` is the recipe key of the limit."""
        if self.read == 0:
            raise RecipeError(f"{key}: no records; name a source that has some")
        if 2 * self.kept < self.read:
            (reason, _), *_ = self.dropped.most_common(1)
            way_out = _WAYS_OUT[reason].format(limit=limit, bad=next(iter(self.bad), None))
            raise RecipeError(
                f"{key}: only {self.kept:,} of {self.read:,} records are kept ({_listed(self.dropped)}); {way_out}"
            )


def merge_reports(reports: Iterable[Report]) -> Report:
    """Return one report for all parts of a data key."""
    whole = Report()
    for report in reports:
        whole.add(report)
    return whole


def _shown(names: list[str]) -> str:
    more = len(names) - MAX_FILES_SHOWN
    return ", ".join(names[:MAX_FILES_SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common())
