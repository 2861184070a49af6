"""The user's functions: their arguments, which return values are numbers, and error messages."""

import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from engine.errors import RunError
from engine.scoring import rule
from engine.scoring.functions import is_number, load_function
from engine.scoring.gold import GoldScore, load_gold
from engine.scoring.rule import RuleScorer
from tests.support.tokenizers import qwen
from tests.unit.engine.scoring.test_answers import generated

HERE = "tests.unit.engine.scoring.test_functions"


def answer_alone(answer):
    return 1.0


def with_more(record, answer, *rest, threshold=0.5):
    return {"gold": threshold}


def keywords_only(*, record, answer):
    return {"gold": 1.0}


def half(messages, answer, record):
    return np.float32(0.5)


def slow(messages, answer, record):
    time.sleep(0.3)
    return 1


def of_the_record(record, answer):
    return record["returned"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "answer_alone",
            "watch.gold=NAME is answer_alone(answer), but is called with (record, answer): too many positional "
            "arguments; write def answer_alone(record, answer)",
        ),
        (
            "keywords_only",
            "watch.gold=NAME is keywords_only(*, record, answer), but is called with (record, answer): too many "
            "positional arguments; write def keywords_only(record, answer)",
        ),
    ],
)
def test_a_function_with_another_signature_is_refused_and_the_advice_works(monkeypatch, name, message):
    path = f"{HERE}:{name}"
    with pytest.raises(RunError) as error:
        load_gold(path, "watch.gold")
    assert str(error.value) == message.replace("NAME", path)
    followed: dict[str, Any] = {}
    exec(str(error.value).rpartition("write ")[2] + ": return {'gold': 2}", followed)
    monkeypatch.setattr(f"{HERE}.{name}", followed[name])
    assert load_gold(path, "watch.gold")({}, "") == GoldScore(2.0, {})


def test_functions_with_optional_arguments_or_no_signature_are_accepted():
    assert load_gold(f"{HERE}:with_more", "watch.gold")({}, "") == GoldScore(0.5, {})
    assert load_function("builtins:max", "k", "one", "other") is max  # it has no signature


@pytest.mark.parametrize("score", [1, 0.5, np.float32(2), np.float16(2), np.int64(3), np.float64(1), Fraction(1, 3)])
def test_these_values_are_numbers(score):
    assert is_number(score)


@pytest.mark.parametrize("score", [True, np.bool_(True), None, "1", 1j, float("nan"), np.float32("inf"), [1.0]])
def test_these_values_are_not_numbers(score):
    assert not is_number(score)


def test_a_rule_may_return_numpy_numbers():
    tokens, start = generated(qwen(), "42", "@im_end")
    scorer = RuleScorer(f"{HERE}:half", "reward.rule", qwen(), torch.device("cpu"))
    assert scorer([tokens], [start], [{}], 0).tolist() == [0.5]


def test_a_slow_rule_prints_its_progress(monkeypatch, capsys):
    monkeypatch.setattr(rule, "SLOW_SECONDS", 0.1)
    tokens, start = generated(qwen(), "42", "@im_end")
    scorer = RuleScorer(f"{HERE}:slow", "reward.rule", qwen(), torch.device("cpu"))
    assert scorer([tokens], [start], [{}], 0).tolist() == [1.0]
    message = f"reward.rule={HERE}:slow has been running for 0 s, now on the answer '42'; it has no time limit\n"
    assert capsys.readouterr().out == message


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (0.5, "returned 0.5; it must return a dict of numbers with the key gold"),
        ({"gold": None}, "returned {'gold': None}; it must return a dict of numbers with the key gold"),
        (
            {"gold": 1, "part": "x"},
            "returned {'gold': 1, 'part': 'x'}; it must return a dict of numbers with the key gold",
        ),
    ],
)
def test_gold_that_is_not_a_dict_of_numbers_is_refused(returned, message):
    with pytest.raises(RunError) as error:
        load_gold(f"{HERE}:of_the_record", "watch.gold")({"returned": returned}, "")
    assert str(error.value) == f"watch.gold={HERE}:of_the_record {message}"


def test_a_failing_gold_function_is_reported_with_the_answer():
    with pytest.raises(RunError) as error:
        load_gold(f"{HERE}:of_the_record", "watch.gold")({}, "Yes.")
    assert str(error.value) == f"watch.gold={HERE}:of_the_record failed on the answer 'Yes.': KeyError: 'returned'"
