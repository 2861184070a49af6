"""Answers side by side in the report: the choice of items, and the folding of long texts."""

from eval.report.excerpts import excerpts, split_at_fold, value


def answers(*items, names=("sft", "ppo"), measure="gold"):
    """Return rows with an item for each tuple; a tuple has one value per subject."""
    return [
        {"item": number, "subject": name, "messages": [], "text": name, "score": v, "gold": {"total": v}}
        if measure == "gold"
        else {"item": number, "subject": name, "messages": [], "text": name, "score": v}
        for number, values in enumerate(items)
        for name, v in zip(names, values, strict=True)
    ]


def numbers(chosen):
    return [item.number for item in chosen.items]


def test_items_are_spaced_from_the_greatest_loss_to_the_greatest_gain():
    """Gains of the last subject: 2, -1, 0, 5, 1. The three items have the least, the median and the greatest."""
    rows = answers((0, 2), (1, 0), (0, 0), (0, 5), (1, 2))
    chosen = excerpts(rows, "sft", "gold", 3)
    assert numbers(chosen) == [1, 4, 3]
    assert [answer["subject"] for answer in chosen.items[0].answers] == ["sft", "ppo"]
    assert (
        chosen.rule == "3 of 5 items, evenly spaced from ppo's greatest loss to its greatest gain in gold against sft"
    )
    assert numbers(excerpts(rows[:4], "sft", "gold", 3)) == [1, 0]
    assert excerpts([], "sft", "gold", 3).items == []


def test_items_are_chosen_by_the_last_subject_that_is_not_the_reference():
    rows = answers((0, 9, 3), (5, 0, 3), names=("a", "b", "last"))
    assert numbers(excerpts(rows, "last", "gold", 2)) == [1, 0]
    assert numbers(excerpts(rows, "a", "gold", 2)) == [1, 0]
    assert "from last's greatest loss to its greatest gain in gold against a" in excerpts(rows, "a", "gold", 2).rule


def test_without_gold_items_are_chosen_by_score_and_an_unfinished_answer_is_lowest():
    rows = answers((2.0,), (None,), (1.0,), names=("only",), measure="score")
    chosen = excerpts(rows, "only", "score", 2)
    assert numbers(chosen) == [1, 0]
    assert chosen.rule == "2 of 3 items, evenly spaced from lowest to highest score"
    assert value({"score": None}, "score") < -1e8


def test_without_gold_and_scores_the_first_items_are_chosen():
    rows = answers((2.0,), (1.0,), names=("only",), measure="score")
    chosen = excerpts(rows, "only", None, 1)
    assert (numbers(chosen), chosen.rule) == ([0], "the first items, in the order of the file")


def test_a_long_text_is_split_at_a_space_without_loss():
    assert split_at_fold("short", 10) == ("short", "")
    assert split_at_fold("x" * 12, 10) == ("x" * 12, "")  # a short rest is not folded
    assert split_at_fold("123456789 123456789", 10) == ("123456789 ", "123456789")
    assert split_at_fold("x" * 30, 10) == ("x" * 10, "x" * 20)
