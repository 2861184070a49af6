"""Logs of a run with one row per step, such as metrics.jsonl; a resumed run removes rows after its checkpoint.

docs/metrics.md defines each metric by formula. Keys that contain `seconds` or `per_second` are timings, keys that
contain `memory` are bytes; only these differ when a run is repeated.
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
    """metrics.jsonl. Each row also has `elapsed_seconds`, the total time of the run including earlier attempts."""

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
