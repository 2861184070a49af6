"""JSON Lines: rows are read back, an incomplete last line is ignored or removed, and NaN is written as null."""

import json
import math

from engine.files import jsonl

ROWS = [{"step": 1, "text": "größer"}, {"step": 2, "text": "a\nb"}]


def test_rows_written_and_appended_are_read_back(tmp_path):
    path = tmp_path / "new" / "log.jsonl"
    jsonl.append(path, ROWS[:1])
    jsonl.append(path, ROWS[1:])
    assert jsonl.read(path) == ROWS
    assert path.read_text(encoding="utf-8") == '{"step": 1, "text": "größer"}\n{"step": 2, "text": "a\\nb"}\n'
    jsonl.write(path, ROWS[1:])
    assert jsonl.read(path) == ROWS[1:]
    assert jsonl.read(tmp_path / "none.jsonl") == jsonl.read_and_repair(tmp_path / "none.jsonl") == []


def test_an_incomplete_last_line_is_ignored_by_read_and_removed_by_repair(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"st')
    assert jsonl.read(path) == [{"step": 1}]
    assert path.read_text() == '{"step": 1}\n{"st'
    assert jsonl.read_and_repair(path) == [{"step": 1}]
    jsonl.append(path, [{"step": 2}])
    assert jsonl.read(path) == [{"step": 1}, {"step": 2}]


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
    path = tmp_path / "log.jsonl"
    jsonl.write(path, [{"a": math.nan, "b": [1.5, -math.inf], "c": {"d": math.inf, "e": 0}}])
    line = path.read_text()
    assert json.loads(line, parse_constant=lambda name: 1 / 0) == {
        "a": None,
        "b": [1.5, None],
        "c": {"d": None, "e": 0},
    }
