"""Logs by step: lines of later steps are removed on resume, and elapsed time adds up over resumes."""

import math

from engine.files import jsonl
from engine.run import metrics
from engine.run.metrics import MetricsLog, StepLog


def test_a_run_that_resumes_removes_the_lines_of_later_steps(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 2}\n{"step": 3}\n{"st')
    log = StepLog(path, 2)
    log.append({"step": 3, "score": math.nan})
    assert jsonl.read(path) == [{"step": 1}, {"step": 2}, {"step": 2}, {"step": 3, "score": None}]
    StepLog(path, 0)
    assert path.read_text() == ""


def test_elapsed_seconds_add_up_over_resumes(tmp_path, monkeypatch):
    clock = iter([100.0, 107.0, 500.0, 502.5])
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(clock))
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, 0).append({"step": 1})  # 7 s after the start
    resumed = MetricsLog(path, 1)
    resumed.append({"step": 2})  # 2.5 s after the resume
    assert [row["elapsed_seconds"] for row in jsonl.read(path)] == [7.0, 9.5]
    assert [row["step"] for row in resumed.rows] == [1, 2]
