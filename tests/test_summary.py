"""An evaluation's figures from hand-made records, and the gold scorer that a recipe names."""

import math

import pytest

from engine.run.folder import RunError
from engine.run.gold import load_gold
from eval.summary import MEASURED, summarise


def answer(text, gold, score, tokens=4, ended=True, **others):
    return {"text": text, "tokens": tokens, "ended": ended, "score": score, "gold": gold, **others}


def parts(gold, correct):
    return {"gold": gold, "correct": correct, "manner": gold - correct}


SAMPLES = [
    {
        "answers": {
            "sft": [answer("It is red.", parts(1.0, 1.0), 0.5), answer("Sure, it is red.", parts(1.5, 1.0), 2.0)],
            "ppo": [answer("Gladly! Red.", parts(1.5, 1.0), 3.0, tokens=6, logprob_ppo=-1.0, logprob_sft=-4.0)],
        }
    },
    {
        "answers": {
            "sft": [answer("It is blue.", parts(0.0, 0.0), None, 8, ended=False), answer("No.", parts(0.0, 0.0), -1.0)],
            "ppo": [answer("Gladly! Blue.", parts(0.0, 0.0), 1.0, tokens=6, logprob_ppo=-2.0, logprob_sft=-3.0)],
        }
    },
]
PAIRS = [
    {"data": "pairs", "scores": {"pmp": [1.0, 2.0], "rm": [3.0, 2.0]}},
    {"data": "pairs", "scores": {"pmp": [1.0, 1.0], "rm": [3.0, 2.0]}},
    {"data": "correctness_pairs", "scores": {"pmp": [5.0, 2.0], "rm": [1.0, 2.0]}},
]


def test_figures_of_hand_made_records():
    figures = summarise(SAMPLES, PAIRS, {"sft": (3 * math.log(4), 3), "ppo": (3 * math.log(5), 3)}, seed=0)
    assert figures == {
        "prompts": 2,
        "gold_parts": ["gold", "accuracy", "manner"],
        "best_of_n": 2,
        "gold_sft": 0.5,
        "accuracy_sft": 0.5,
        "manner_sft": 0.0,
        "score_sft": 0.5,
        "response_tokens_sft": 6.0,
        "without_end_sft": 0.5,
        "distinct_sft": 1.0,
        "commonest_opening_sft": 0.5,
        "gold_best_of_n": 0.75,
        "accuracy_best_of_n": 0.5,
        "manner_best_of_n": 0.25,
        "score_best_of_n": 0.5,
        "response_tokens_best_of_n": 4.0,
        "without_end_best_of_n": 0.0,
        "distinct_best_of_n": 1.0,
        "commonest_opening_best_of_n": 0.5,
        "gold_ppo": 0.75,
        "accuracy_ppo": 0.5,
        "manner_ppo": 0.25,
        "score_ppo": 2.0,
        "response_tokens_ppo": 6.0,
        "without_end_ppo": 0.0,
        "distinct_ppo": 1.0,
        "commonest_opening_ppo": 0.5,
        "gold_ppo_minus_sft": 0.25,
        "gold_ppo_minus_sft_ci95": [0.0, 0.5],
        "win_rate_ppo_vs_sft": 0.75,
        "kl_ppo_ref": 2.0,
        "pairs": 2,
        "rm_accuracy_pmp": 0.25,
        "rm_accuracy_rm": 1.0,
        "correctness_pairs": 1,
        "rm_accuracy_correctness_pmp": 1.0,
        "rm_accuracy_correctness": 0.0,
        "pretrain_tokens": 3,
        "pretrain_ppl_sft": pytest.approx(4.0),
        "pretrain_ppl_ppo": pytest.approx(5.0),
    }


def test_what_was_not_measured_has_no_key():
    only = [{"answers": {"sft": [{"text": "It is red.", "tokens": 4, "ended": True}]}}]
    assert summarise(only, [], {}, seed=0) == {
        "prompts": 1, "response_tokens_sft": 4, "without_end_sft": 0, "distinct_sft": 1, "commonest_opening_sft": 1,
    }  # fmt: skip


def test_scores_of_answers_that_never_end_are_null():
    answers = [{"answers": {"sft": [{"text": "", "tokens": 9, "ended": False, "score": None}]}}]
    assert summarise(answers, [], {}, seed=0)["score_sft"] is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "nowhere.at_all:score",
            "eval.gold=nowhere.at_all:score: nowhere.at_all cannot be imported (No module named 'nowhere'); name a "
            "module that python finds from here, or leave eval.gold out",
        ),
        ("math:score", "eval.gold=math:score: math has no function score; write module:function"),
        ("math:pi", "eval.gold=math:pi: math has no function pi; write module:function"),
    ],
)
def test_a_gold_scorer_that_is_not_there(path, message):
    with pytest.raises(RunError) as error:
        load_gold(path, "eval.gold")
    assert str(error.value) == message


def bad_gold(record, text):
    return record


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            {"correct": 1},
            "eval.gold=tests.test_summary:bad_gold returned {'correct': 1}; it must return a dict of numbers with the "
            "key gold",
        ),
        (
            {"gold": 1, "score": 1},
            "eval.gold=tests.test_summary:bad_gold has a part called score, which is another figure's name; rename it",
        ),
    ],
)
def test_a_gold_scorer_that_returns_something_else(returned, message):
    with pytest.raises(RunError) as error:
        load_gold("tests.test_summary:bad_gold", "eval.gold", MEASURED)(returned, "")
    assert str(error.value) == message
