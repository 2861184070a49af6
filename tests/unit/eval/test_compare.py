"""Comparison of rewards over several evaluations, against numbers worked by hand."""

import pytest

from engine.errors import RunError
from eval.compare import accuracy_table, compare, difference_table
from tests.support.stage_runs import write_jsonl


def pairs(first, second):
    """Return comparisons of one set with the margins of the rewards a and b."""
    return [{"set": "held_out", "scores": {"a": [m, 0], "b": [n, 0]}} for m, n in zip(first, second, strict=True)]


RUNS = [pairs([1, -1, 0, 1], [1, 1, 1, 1]), pairs([1, 1], [1, -1])]


def cells(table):
    return [list(column.cells) for column in table.columns]


def test_accuracies_over_all_evaluations_and_of_each():
    assert cells(accuracy_table(RUNS)) == [["a", "b"], ["75.0 (62.5, 100.0)", "83.3 (100.0, 50.0)"]]


def test_differences_are_paired():
    """Compared with a, b gains 1 and ½ in the first run and loses 1 in the second."""
    names, (cell,) = cells(difference_table(RUNS))
    assert names == ["b - a"]
    assert cell.startswith("+8.3 [")
    assert cell.endswith("(+37.5, -50.0)")
    same = difference_table([pairs([1, -1], [1, -1])])
    assert cells(same)[1] == ["+0.0 [+0.0, +0.0] (+0.0)"]


def test_messages_for_folders_that_cannot_be_compared(tmp_path):
    write_jsonl(tmp_path / "pairs.jsonl", RUNS[0])
    (tmp_path / "other").mkdir()
    write_jsonl(tmp_path / "other" / "pairs.jsonl", [{"set": "hh", "scores": {"a": [1, 0], "b": [1, 0]}}])
    for folders, message in (
        ([], "no folder given; usage: python -m eval.compare FOLDER [FOLDER ...]"),
        ([str(tmp_path / "nowhere")], f"{tmp_path}/nowhere: no comparisons in its pairs.jsonl; run make eval with "
         "data.comparisons"),
        ([str(tmp_path), str(tmp_path / "other")], "the folders have different sets or rewards; give "
         "evaluations of one recipe"),
    ):  # fmt: skip
        with pytest.raises(RunError) as error:
            compare(folders)
        assert str(error.value) == message
