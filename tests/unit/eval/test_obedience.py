"""Figures of obedience to a system prompt, against numbers worked by hand."""

import pytest

from eval.figures import figures, obeyed_by_turn
from eval.gate import check_figures, read_requirements
from eval.obedience import FIGURES, obedience_figures, obedience_series
from eval.summary import EvaluatedSubjects, summarise

WHY = "best of n picks answers to single prompts only; see sft"
SUBJECTS = EvaluatedSubjects(["sft", "best", "ppo"], reference="sft", why={"best": {"system_prompt": WHY}})


def line(item, subject, *obeyed, stopped=None):
    return {"item": item, "subject": subject, "obeyed": list(obeyed), "stopped": stopped}


# Conversations of three, three, two and three turns.
LINES = [
    line(0, "sft", 1.0, 1.0, 1.0),
    line(0, "ppo", 1.0, 0.0, 0.0),
    line(1, "sft", 0.0, 1.0, 1.0),
    line(1, "ppo", 1.0, 1.0, stopped="too_long"),
    line(2, "sft", 1.0, 0.5),
    line(2, "ppo", 1.0, 1.0),
    line(3, "sft", 1.0, stopped="unreadable"),
    line(3, "ppo", stopped="too_long"),
]


def lines_of(subject):
    return [row for row in LINES if row["subject"] == subject]


def test_obedience_figures_by_hand():
    assert obedience_figures(lines_of("sft"), {}) == {
        "obeyed": 7.5 / 9,
        "throughout": 1 / 3,  # of the three conversations that were completed
        "first": 3 / 4,
        "last": 2.5 / 3,
        "by_turn": [3 / 4, 2.5 / 3, 1.0],
        "conversations": 4,
        "turns": 9,
        "too_long": 0,
        "unreadable": 1,
    }
    assert obedience_figures(lines_of("ppo"), {}) == {
        "obeyed": 5 / 7,
        "throughout": 1 / 2,
        "first": 1.0,
        "last": 1 / 2,
        "by_turn": [1.0, 2 / 3, 0.0],
        "conversations": 4,
        "turns": 7,
        "too_long": 2,
        "unreadable": 0,
    }


def test_differences_are_over_the_turns_that_both_subjects_answered():
    """Both answered 3 + 2 + 2 turns, and both completed conversations 0 and 2."""
    found = obedience_series(lines_of("sft"), lines_of("ppo"))
    assert found == {
        "obeyed": pytest.approx([-2 / (7 / 3), 1 / (7 / 3), 0.5 / (7 / 3)]),
        "throughout": [-1.0, 1.0],
        "first": [0.0, 1.0, 0.0],
        "last": [-1.0, 0.5],
    }
    assert sum(found["obeyed"]) / 3 == pytest.approx((1 + 2 + 2) / 7 - (3 + 1 + 1.5) / 7)


def test_if_all_turns_are_answered_the_difference_is_that_of_the_figures():
    """This also holds for conversations of unequal length."""
    one = [line(0, "a", 1.0, 0.0, 1.0), line(1, "a", 0.0), line(2, "a", 0.0, 1.0)]
    other = [line(0, "b", 1.0, 1.0, 1.0), line(1, "b", 1.0), line(2, "b", 0.0, 0.0)]
    difference = summarise([], [], [], EvaluatedSubjects(["a", "b"], "a"), 0, [*one, *other])["differences"]["b"][
        "system_prompt"
    ]
    before, after = obedience_figures(one, {}), obedience_figures(other, {})
    for name in ("obeyed", "throughout", "first", "last"):
        assert difference[name]["mean"] == pytest.approx(after[name] - before[name]), name
        assert difference[name]["n"] == 3


def test_a_subject_without_conversations_has_null_figures_with_the_reason():
    summary = summarise([], [], [], SUBJECTS, 0, LINES)
    assert list(summary["subjects"]["ppo"]) == ["system_prompt"]
    assert summary["subjects"]["best"]["system_prompt"] == dict.fromkeys(FIGURES) | {"why": dict.fromkeys(FIGURES, WHY)}
    assert summary["differences"]["ppo"]["system_prompt"]["throughout"] == {"mean": 0.0, "ci95": [-1.0, 1.0], "n": 2}
    assert summary["differences"]["ppo"]["system_prompt"]["first"]["mean"] == pytest.approx(1 / 3)
    for comparison in (summary["differences"]["best"], summary["pairs"]["best|ppo"]):
        assert comparison["system_prompt"]["obeyed"] is None
        assert comparison["system_prompt"]["why"]["obeyed"] == "one of the two subjects has no conversations"


def test_figures_without_completed_conversations_are_null_with_the_reason():
    stopped = [line(0, "sft", stopped="too_long"), line(1, "sft", stopped="too_long")]
    partial = obedience_figures([*stopped, line(2, "sft", 1.0, stopped="too_long")], {})
    reason = "no conversation was completed"
    assert (partial["obeyed"], partial["first"], partial["turns"], partial["too_long"]) == (1.0, 1.0, 1, 3)
    assert (partial["throughout"], partial["last"]) == (None, None)
    assert partial["why"] == {"throughout": reason, "last": reason}
    empty = obedience_figures(stopped, {})
    assert (empty["obeyed"], empty["by_turn"], empty["turns"], empty["conversations"]) == (None, [], 0, 2)
    assert empty["why"]["obeyed"] == "no conversation got an answer to its first turn"
    assert obedience_series(stopped, stopped)["obeyed"] == "no conversation has this figure for both subjects"


def test_a_partly_obeyed_turn_is_not_obeyed_throughout():
    assert obedience_figures([line(0, "a", 1.0, 0.99)], {})["throughout"] == 0.0


def test_obedience_has_rows_in_the_tables_and_can_be_required():
    summary = summarise([], [], [], SUBJECTS, 0, LINES)
    shown = {figure.label: figure for figure in figures(summary)}
    assert list(shown) == ["instruction obeyed", "obeyed throughout", "obeyed at first turn", "obeyed at last turn"]
    assert all(figure.better == 1 and figure.is_share for figure in shown.values())
    assert shown["instruction obeyed"].value(summary, "sft") == 7.5 / 9
    assert shown["obeyed at last turn"].why(summary, "best") == WHY
    assert shown["obeyed throughout"].difference(summary, "ppo") == {"mean": 0.0, "ci95": [-1.0, 1.0], "n": 2}
    assert obeyed_by_turn(summary)[2] == {"sft": 1.0, "best": None, "ppo": 0.0}
    gate = {"subjects.sft.system_prompt.by_turn.2": ">= 1", "subjects.best.system_prompt.last": "> 0"}
    met, failed = check_figures(read_requirements(gate, "eval.require", SUBJECTS.subjects, []), summary)
    assert (met.ok, met.value, failed.ok, failed.why) == (True, 1.0, False, WHY)
