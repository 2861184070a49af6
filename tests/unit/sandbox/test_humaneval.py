"""The 164 problems of HumanEval: all reference solutions pass and all empty bodies fail, at the best level."""

import gzip
import json

import pytest

from sandbox import Problem, check_all
from tests.support.fetch import CACHE
from tests.support.paths import DATA
from tests.unit.sandbox.problems import empty_body

FILES = [DATA / "humaneval.jsonl.gz", CACHE / "data" / "humaneval" / "HumanEval.jsonl.gz"]


@pytest.mark.skipif(
    not any(file.exists() for file in FILES),
    reason="HumanEval is not fetched; run .venv/bin/python -m tests.support.fetch data/humaneval",
)
def test_references_pass_and_empty_bodies_fail(best_box):
    with gzip.open(next(file for file in FILES if file.exists()), "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    problems = [
        Problem(
            record["task_id"],
            empty_body(record["prompt"], ""),
            f"{record['test']}\ncheck({record['entry_point']})",
            record["prompt"] + record["canonical_solution"],
        )
        for record in records
    ]
    verdicts = check_all(problems, 10, box=best_box)
    assert (len(verdicts), sum(verdict.passed for verdict in verdicts)) == (164, 0)
    assert {verdict.ended for verdict in verdicts} == {None}
