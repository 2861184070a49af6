"""Logs of a run by step: metrics.jsonl and others like it, cut back to the checkpoint when a run resumes.

Each metric is defined once, by formula, in docs/metrics.md. Keys that contain `seconds` or `per_second` are timings,
keys that contain `memory` are bytes; only these differ between a run and its repetition.
"""

import re
import time
from pathlib import Path
from typing import Any

from engine.files import jsonl

TIMING = re.compile("seconds|per_second|memory")


class StepLog:
    """An append-only JSON Lines file of objects with a `step`.

    Opening it for a run that resumes after `resume_step` removes the lines of later steps.
    """

    def __init__(self, path: Path, resume_step: int):
        self.path = path
        self.rows = [row for row in jsonl.read(path) if row["step"] <= resume_step]
        jsonl.write(path, self.rows)

    def append(self, row: dict[str, Any]) -> None:
        jsonl.append(self.path, [row])


class MetricsLog(StepLog):
    """metrics.jsonl; every line also has `elapsed_seconds`, the time of the run over all its resumes."""

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
