"""metrics.jsonl and its like: one JSON object a line with its `step`, cut back when a run resumes.

What a metric means is defined once, by formula, in docs/metrics.md. Keys that hold `seconds` or `per_second` are
timings, keys that hold `memory` are bytes; these alone differ between a run and its repetition.
"""

import json
import math
import re
import time
from pathlib import Path
from typing import Any

from engine.files import durable

TIMING = re.compile("seconds|per_second|memory")


def finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite is written as null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log; a last line that a kill left half-written is no line."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


class StepLog:
    """An append-only log of objects with a `step`.

    Opening it for a run that resumes after `step` forgets what later steps had written.
    """

    def __init__(self, path: Path, resume_step: int):
        self.path = path
        kept = [row for row in read(path) if row["step"] <= resume_step]
        durable.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
        self.rows = kept

    def append(self, row: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({key: finite(value) for key, value in row.items()}, ensure_ascii=False) + "\n")


class MetricsLog(StepLog):
    """metrics.jsonl; every line also carries `elapsed_seconds`, which goes on counting across resumes."""

    def __init__(self, path: Path, resume_step: int):
        super().__init__(path, resume_step)
        before = self.rows[-1]["elapsed_seconds"] if self.rows else 0.0
        self._began = time.perf_counter() - before

    @property
    def elapsed_seconds(self) -> float:
        return time.perf_counter() - self._began

    def append(self, row: dict[str, Any]) -> None:
        super().append({**row, "elapsed_seconds": round(self.elapsed_seconds, 3)})
        self.rows.append(row)
