"""Figures of summary.json against numbers worked by hand, and errors of a recipe's gold scorer."""

import math

import pytest

from engine.errors import RunError
from engine.scoring.gold import load_gold
from eval.summary import RESERVED_FIGURE_NAMES, EvaluatedSubjects, summarise

SUBJECTS = EvaluatedSubjects(["base", "sft", "ppo"], reference="sft", reward="rm")


def answer(item, subject, text, gold=None, rm=None, pmp=None, tokens=4, ended=True, logprobs=(None, None), **record):
    row = {
        "item": item,
        "subject": subject,
        "text": text,
        "tokens": tokens,
        "ended": ended,
        "scores": {"pmp": pmp, "rm": rm},
        "record": record,
        "logprob": logprobs[0],
        "reference_logprob": logprobs[1],
    }
    return row if gold is None else row | {"gold": dict(zip(("total", "correct", "manner"), gold, strict=True))}


ANSWERS = [
    answer(0, "base", "Red", (1.0, 1.0, 0.0), rm=1.0, pmp=2.0, tokens=2, logprobs=(-1.0, -2.0)),
    answer(0, "sft", "It is red.", (1.0, 1.0, 0.0), rm=0.5, pmp=0.0, logprobs=(-3.0, -3.0)),
    answer(0, "ppo", "Gladly! Red.", (1.5, 1.0, 0.5), rm=3.0, pmp=1.0, tokens=6, logprobs=(-1.0, -4.0)),
    answer(1, "base", "It is blue.", (0.0, 0.0, 0.0), tokens=12, ended=False, logprobs=(-2.0, -2.0)),
    answer(1, "sft", "It is blue.", (0.0, 0.0, 0.0), tokens=8, ended=False, logprobs=(-5.0, -5.0)),
    answer(1, "ppo", "Gladly! Blue.", (0.0, 0.0, 0.0), rm=1.0, pmp=3.0, tokens=6, logprobs=(-2.0, -3.0)),
]


def figures_of(subject, answers=ANSWERS, subjects=SUBJECTS):
    return summarise(answers, [], [], subjects, seed=0)["subjects"][subject]["answers"]


def test_answer_figures_by_hand():
    too_few = "scores or lengths do not vary, or fewer than three answers have both"
    assert figures_of("ppo") == {
        "items": 2,
        "gold": 0.75,
        "accuracy": 0.5,
        "manner": 0.25,
        "scores": {"pmp": 2.0, "rm": 2.0},
        "score": 2.0,
        "score_length": None,
        "score_length_given_correct": None,
        "tokens": 6.0,
        "without_end": 0.0,
        "distinct": 1.0,
        "commonest_opening": 0.5,
        "kl_to_reference": 2.0,  # ((-1 + 4) + (-2 + 3)) / 2
        "why": {"score_length": too_few, "score_length_given_correct": too_few},
    }


def test_an_unfinished_answer_has_no_score_and_the_reference_has_no_kl():
    sft = figures_of("sft")
    assert (sft["score"], sft["scores"]) == (0.5, {"pmp": 0.0, "rm": 0.5})  # only of the answer that ended
    assert (sft["without_end"], sft["tokens"], sft["kl_to_reference"]) == (0.5, 6.0, 0.0)
    unfinished = figures_of("sft", [row for row in ANSWERS if row["item"] == 1])
    assert (unfinished["score"], unfinished["why"]["score"]) == (None, "no answer has a score")


def test_differences_are_against_the_reference_and_paired():
    answers = summarise(ANSWERS, [], [], SUBJECTS, seed=0)["differences"]["ppo"]["answers"]
    assert answers["gold"] == {"mean": 0.25, "ci95": [0.0, 0.5], "n": 2}  # 0.5 and 0
    assert answers["accuracy"] == {"mean": 0.0, "ci95": [0.0, 0.0], "n": 2}
    assert answers["manner"] == {"mean": 0.25, "ci95": [0.0, 0.5], "n": 2}
    assert answers["score"] == answers["scores"]["rm"] == {"mean": 2.5, "ci95": [2.5, 2.5], "n": 1}  # both ended
    assert answers["scores"]["pmp"] == {"mean": 1.0, "ci95": [1.0, 1.0], "n": 1}
    assert answers["tokens"] == {"mean": 0.0, "ci95": [-2.0, 2.0], "n": 2}  # 6 - 4 and 6 - 8
    assert answers["without_end"] == {"mean": -0.5, "ci95": [-1.0, 0.0], "n": 2}
    assert answers["win_rate"] == {"mean": 0.75, "ci95": [0.5, 1.0], "n": 2, "by": "gold"}  # a win and a tie


def test_differences_of_other_pairs_subtract_the_earlier_subject():
    summary = summarise(ANSWERS, [], [], SUBJECTS, seed=0)
    assert list(summary["differences"]) == ["base", "ppo"]
    assert list(summary["pairs"]) == ["base|ppo"]
    assert summary["pairs"]["base|ppo"]["answers"]["tokens"]["mean"] == (6 - 2 + 6 - 12) / 2
    assert summary["pairs"]["base|ppo"]["answers"]["win_rate"]["mean"] == 0.75


def test_without_gold_wins_are_decided_by_score():
    """Item 0: 3 against 0.5; item 1: any score beats an unfinished answer, and two unfinished answers tie."""
    answers = [{key: value for key, value in row.items() if key != "gold"} for row in ANSWERS]
    differences = summarise(answers, [], [], SUBJECTS, seed=0)["differences"]
    assert differences["ppo"]["answers"]["win_rate"] == {"mean": 1.0, "ci95": [1.0, 1.0], "n": 2, "by": "score"}
    assert differences["base"]["answers"]["win_rate"]["mean"] == 0.75
    assert differences["base"]["answers"]["win_rates"]["rm"]["mean"] == 0.75
    assert "gold" not in differences["ppo"]["answers"]


def test_without_gold_and_reward_the_win_rate_is_null():
    answers = [row | {"scores": {}} for row in ANSWERS]
    answers = [{key: value for key, value in row.items() if key != "gold"} for row in answers]
    summary = summarise(answers, [], [], EvaluatedSubjects(["base", "sft", "ppo"], reference="sft"), seed=0)
    assert "score" not in summary["subjects"]["ppo"]["answers"]
    found = summary["differences"]["ppo"]["answers"]
    assert found["win_rate"] is None
    assert found["why"] == {"win_rate": "there is neither a gold scorer nor a reward to compare answers by"}


def test_every_task_has_its_own_figures():
    """A task's figures are those of its items only; the most frequent task comes first."""
    task_of = {0: "code", 1: "tool", 2: "tool"}
    answers = [*ANSWERS, *(row | {"item": 2} for row in ANSWERS[3:])]
    answers = [row | {"record": {"task": task_of[row["item"]]}} for row in answers]
    tasks = figures_of("ppo", answers)["tasks"]
    assert list(tasks) == ["tool", "code"]
    for task, figures in tasks.items():
        subset = figures_of("ppo", [row | {"record": {}} for row in answers if row["record"]["task"] == task])
        assert figures == subset
    assert (tasks["code"]["items"], tasks["code"]["gold"], tasks["tool"]["items"]) == (1, 1.5, 2)


def test_there_are_no_figures_by_task_if_a_record_has_none():
    assert "tasks" not in figures_of(
        "ppo", [ANSWERS[2] | {"record": {"task": "code"}}, ANSWERS[5]], EvaluatedSubjects(["ppo"], "ppo", "rm")
    )


def test_a_figure_that_a_subject_cannot_have_is_null_with_the_reason():
    why = {"far": {"tokens": "not counted there", "kl_to_reference": "no log-probabilities there"}}
    rows = [*(r for r in ANSWERS if r["subject"] == "sft"), *(answer(i, "far", "No.", tokens=None) for i in (0, 1))]
    rows = [{key: value for key, value in row.items() if key != "gold"} for row in rows]
    summary = summarise(rows, [], [], EvaluatedSubjects(["sft", "far"], "sft", "rm", why), seed=0)
    far = summary["subjects"]["far"]["answers"]
    assert (far["tokens"], far["kl_to_reference"], far["score_length"]) == (None, None, None)
    assert far["why"] == {
        "score": "no answer has a score",
        "score_length": "not counted there",
        "tokens": "not counted there",
        "kl_to_reference": "no log-probabilities there",
    }
    found = summary["differences"]["far"]["answers"]
    assert (found["tokens"], found["why"]["tokens"]) == (None, "token counts are not known for both subjects")


TEXTS = [
    {"set": "web", "item": 0, "subject": "sft", "nll": 3 * math.log(4), "tokens": 3, "bytes": 6},
    {"set": "web", "item": 1, "subject": "sft", "nll": math.log(4), "tokens": 1, "bytes": 2},
    {"set": "web", "item": 0, "subject": "ppo", "nll": 3 * math.log(8), "tokens": 3, "bytes": 6},
    {"set": "web", "item": 1, "subject": "ppo", "nll": math.log(4), "tokens": 1, "bytes": 2},
]


def test_perplexity_and_bits_per_byte_by_hand():
    """sft: 4 tokens of 2 bits over 8 bytes. ppo: three tokens of 3 bits and one of 2, so 2^(11/4)."""
    summary = summarise([], [], TEXTS, EvaluatedSubjects(["sft", "ppo"], "sft"), seed=0)
    sft, ppo = (summary["subjects"][name]["perplexity"] for name in ("sft", "ppo"))
    assert sft == {"web": pytest.approx(4), "tokens": {"web": 4}, "bits_per_byte": {"web": pytest.approx(1)}}
    assert ppo == {"web": pytest.approx(2**2.75), "tokens": {"web": 4}, "bits_per_byte": {"web": pytest.approx(11 / 8)}}
    difference = summary["differences"]["ppo"]["perplexity"]["web"]
    # The documents differ by 3 and 0 bits and have 4 bytes on average.
    assert difference == {"mean": pytest.approx(3 / 8), "ci95": [0.0, pytest.approx(3 / 4)], "n": 2}


def test_a_subject_without_perplexity_has_null_with_the_reason():
    subjects = EvaluatedSubjects(["sft", "far"], "sft", why={"far": {"perplexity": "no log-probabilities there"}})
    summary = summarise([], [], TEXTS[:2], subjects, seed=0)
    assert summary["subjects"]["far"]["perplexity"] == {
        "web": None,
        "tokens": {"web": None},
        "bits_per_byte": {"web": None},
        "why": {"web": "no log-probabilities there"},
    }
    found = summary["differences"]["far"]["perplexity"]
    assert found == {"web": None, "why": {"web": "one of the two subjects has no perplexity"}}


def test_another_subject_does_not_change_the_figures_of_the_others():
    """The order of the subjects does not change a difference either."""
    two = [row for row in ANSWERS if row["subject"] != "base"]
    with_base = summarise(ANSWERS, [], [], SUBJECTS, seed=0)
    without = summarise(two, [], [], EvaluatedSubjects(["sft", "ppo"], "sft", "rm"), seed=0)
    assert without["subjects"] == {name: with_base["subjects"][name] for name in ("sft", "ppo")}
    assert without["differences"]["ppo"] == with_base["differences"]["ppo"]
    reordered = summarise(ANSWERS, [], [], EvaluatedSubjects(["ppo", "base", "sft"], "sft", "rm"), seed=0)
    assert reordered["differences"] == with_base["differences"]
    assert reordered["pairs"]["ppo|base"]["answers"]["tokens"]["mean"] == 1.0


def test_a_summary_of_rewards_only():
    pairs = [{"set": "one", "subset": None, "scores": {"rm": [2.0, 1.0]}, "tokens": [3, 2]}]
    summary = summarise([], pairs, [], EvaluatedSubjects([]), seed=0)
    assert summary["subjects"] == summary["differences"] == summary["pairs"] == {}
    assert summary["rewards"]["rm"]["comparisons"]["one"]["accuracy"] == 1


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "nowhere.at_all:score",
            "eval.gold=nowhere.at_all:score: nowhere.at_all cannot be imported (No module named 'nowhere'); name a "
            "module that Python can import from here, or leave eval.gold out",
        ),
        ("math:score", "eval.gold=math:score: math has no function score; write module:function"),
        ("math:pi", "eval.gold=math:pi: math has no function pi; write module:function"),
    ],
)
def test_a_missing_gold_scorer_is_an_error(path, message):
    with pytest.raises(RunError) as error:
        load_gold(path, "eval.gold")
    assert str(error.value) == message


def bad_gold(record, text):
    return record


BAD_GOLD = "tests.unit.eval.test_summary:bad_gold"


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"correct": 1}, "returned {'correct': 1}; it must return a dict of numbers with the key gold"),
        ({"gold": 1, "score": 1}, "has a part called score, which is another figure's name; rename it"),
    ],
)
def test_a_gold_scorer_with_an_invalid_result_is_an_error(returned, message):
    with pytest.raises(RunError) as error:
        load_gold(BAD_GOLD, "eval.gold", RESERVED_FIGURE_NAMES)(returned, "")
    assert str(error.value) == f"eval.gold={BAD_GOLD} {message}"
