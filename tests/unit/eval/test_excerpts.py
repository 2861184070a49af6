"""Answers side by side: which items, and how much of them."""

from eval.report.excerpts import excerpts, split_at_fold, value


def answers(*items, names=("sft", "ppo"), measure="gold"):
    """An item for each tuple of values, one of each subject."""
    return [
        {"item": number, "subject": name, "messages": [], "text": name, "score": v, "gold": {"total": v}}
        if measure == "gold"
        else {"item": number, "subject": name, "messages": [], "text": name, "score": v}
        for number, values in enumerate(items)
        for name, v in zip(names, values, strict=True)
    ]


def numbers(found):
    return [item.number for item in found.items]


def test_from_the_greatest_loss_to_the_greatest_gain():
    """Gains of the last subject: 2, -1, 0, 5, 1; three of five are the least, the middle, the greatest."""
    rows = answers((0, 2), (1, 0), (0, 0), (0, 5), (1, 2))
    chosen = excerpts(rows, "sft", "gold", 3)
    assert numbers(chosen) == [1, 4, 3]
    assert [answer["subject"] for answer in chosen.items[0].answers] == ["sft", "ppo"]
    assert (
        chosen.rule == "3 of 5 items, evenly spaced from ppo's greatest loss to its greatest gain in gold against sft"
    )
    assert numbers(excerpts(rows[:4], "sft", "gold", 3)) == [1, 0]
    assert excerpts([], "sft", "gold", 3).items == []


def test_the_last_subject_that_is_not_the_reference_decides():
    rows = answers((0, 9, 3), (5, 0, 3), names=("a", "b", "last"))
    assert numbers(excerpts(rows, "last", "gold", 2)) == [1, 0]
    assert numbers(excerpts(rows, "a", "gold", 2)) == [1, 0]
    assert "from last's greatest loss to its greatest gain in gold against a" in excerpts(rows, "a", "gold", 2).rule


def test_without_gold_by_score_where_one_that_never_ended_is_lowest():
    rows = answers((2.0,), (None,), (1.0,), names=("only",), measure="score")
    chosen = excerpts(rows, "only", "score", 2)
    assert numbers(chosen) == [1, 0]
    assert chosen.rule == "2 of 3 items, evenly spaced from lowest to highest score"
    assert value({"score": None}, "score") < -1e8


def test_without_any_figure_in_the_files_order():
    rows = answers((2.0,), (1.0,), names=("only",), measure="score")
    chosen = excerpts(rows, "only", None, 1)
    assert (numbers(chosen), chosen.rule) == ([0], "the first items, in the order of the file")


def test_a_long_text_is_split_at_a_space_and_nothing_is_lost():
    assert split_at_fold("short", 10) == ("short", "")
    assert split_at_fold("x" * 12, 10) == ("x" * 12, "")  # a rest of a word or two is not worth a click
    assert split_at_fold("123456789 123456789", 10) == ("123456789 ", "123456789")
    assert split_at_fold("x" * 30, 10) == ("x" * 10, "x" * 20)
