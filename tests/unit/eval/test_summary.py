"""An evaluation's figures from hand-made records, and the gold scorer that a recipe names."""

import io
import math
import re

import pytest
from rich.console import Console

from engine.errors import RunError
from engine.scoring.gold import load_gold
from eval.summary import MEASURED, summarise
from eval.table import closing_table
from eval.trust import of_reward_models


def answer(text, gold, score, tokens=4, ended=True, **others):
    return {"text": text, "tokens": tokens, "ended": ended, "score": score, "gold": gold, **others}


def parts(gold, correct):
    return {"gold": gold, "correct": correct, "manner": gold - correct}


SAMPLES = [
    {
        "answers": {
            "sft": [answer("It is red.", parts(1.0, 1.0), 0.5), answer("Sure, it is red.", parts(1.5, 1.0), 2.0)],
            "ppo": [answer("Gladly! Red.", parts(1.5, 1.0), 3.0, tokens=6, logprob_ppo=-1.0, logprob_sft=-4.0)],
        },
        "record": {},
    },
    {
        "answers": {
            "sft": [answer("It is blue.", parts(0.0, 0.0), None, 8, ended=False), answer("No.", parts(0.0, 0.0), -1.0)],
            "ppo": [answer("Gladly! Blue.", parts(0.0, 0.0), 1.0, tokens=6, logprob_ppo=-2.0, logprob_sft=-3.0)],
        },
        "record": {},
    },
]
PAIRS = [
    {"data": "pairs", "scores": {"pmp": [1.0, 2.0], "rm": [3.0, 2.0]}, "tokens": [9, 7]},
    {"data": "pairs", "scores": {"pmp": [1.0, 1.0], "rm": [3.0, 2.0]}, "tokens": [7, 7]},
    {"data": "correctness_pairs", "scores": {"pmp": [5.0, 2.0], "rm": [1.0, 2.0]}, "tokens": [5, 8]},
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
        "reward_models": of_reward_models(PAIRS),
        "score_length_sft": None,
        "score_length_best_of_n": None,
        "score_length_ppo": None,
        "score_length_given_correct_sft": None,
        "score_length_given_correct_best_of_n": None,
        "score_length_given_correct_ppo": None,
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


def test_every_task_has_its_own_figures():
    """Of its prompts alone, as if there had been no others; the commonest task first."""
    code, tool = SAMPLES[0] | {"record": {"task": "code"}}, SAMPLES[1] | {"record": {"task": "tool"}}
    tasks = summarise([code, tool, tool], [], {}, seed=0)["tasks"]
    assert list(tasks) == ["tool", "code"]
    assert all(tasks[task].items() <= summarise(alone, [], {}, seed=0).items() for task, alone in
               (("code", [code]), ("tool", [tool, tool])))  # fmt: skip
    of_code = tasks["code"]
    assert (of_code["prompts"], of_code["gold_sft"], of_code["gold_best_of_n"], of_code["gold_ppo"]) == (1, 1, 1.5, 1.5)
    assert (tasks["tool"]["prompts"], tasks["tool"]["accuracy_ppo"], tasks["tool"]["score_sft"]) == (2, 0, None)


def test_records_without_a_task_are_not_told_apart():
    assert "tasks" not in summarise([SAMPLES[0] | {"record": {"task": "code"}}, SAMPLES[1]], [], {}, seed=0)


def test_tasks_in_the_closing_table():
    code, tool = SAMPLES[0] | {"record": {"task": "code"}}, SAMPLES[1] | {"record": {"task": "tool"}}
    summary = summarise([code, tool], [], {}, seed=0)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(closing_table(summary))
    (head, first, second) = [re.split(r" *[│┃] *", line)[1:-1] for line in console.export_text().splitlines()
                             if re.match(r"[│┃] (code|tool)|┃ +┃ prompts", line)]  # fmt: skip
    assert head == [
        "", "prompts", "gold score, SFT", "gold score, PPO", "right answers, SFT", "right answers, PPO",
    ]  # fmt: skip
    assert first == ["code", "1", "1.00", "1.50", "100%", "100%"]
    assert second == ["tool", "1", "0.00", "0.00", "0%", "0%"]


def test_what_was_not_measured_has_no_key():
    only = [{"answers": {"sft": [{"text": "It is red.", "tokens": 4, "ended": True}]}, "record": {}}]
    assert summarise(only, [], {}, seed=0) == {
        "prompts": 1, "response_tokens_sft": 4, "without_end_sft": 0, "distinct_sft": 1, "commonest_opening_sft": 1,
    }  # fmt: skip


def test_scores_of_answers_that_never_end_are_null():
    answers = [{"answers": {"sft": [{"text": "", "tokens": 9, "ended": False, "score": None}]}, "record": {}}]
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
            "eval.gold=tests.unit.eval.test_summary:bad_gold returned {'correct': 1}; it must return a dict of numbers with the "
            "key gold",
        ),
        (
            {"gold": 1, "score": 1},
            "eval.gold=tests.unit.eval.test_summary:bad_gold has a part called score, which is another figure's name; rename it",
        ),
    ],
)
def test_a_gold_scorer_that_returns_something_else(returned, message):
    with pytest.raises(RunError) as error:
        load_gold("tests.unit.eval.test_summary:bad_gold", "eval.gold", MEASURED)(returned, "")
    assert str(error.value) == message
