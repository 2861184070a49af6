"""The tables that close an evaluation: read as a terminal shows them."""

import re

import pytest
from rich.console import Console

from eval.closing_table import closing_table
from tests.support.evaluation_folder import rewards, summary

SIX = ("sft", "base", "best_of_n", "ppo", "ppo-no-kl", "dpo-from-hub")


@pytest.fixture
def printed(capsys):
    def show(figures, width=80):
        Console(width=width).print(closing_table(figures))
        return capsys.readouterr().out

    return show


def row(text, name):
    """The cells of the first row that begins with a name."""
    line = next(line for line in text.splitlines() if re.match(rf"│ {re.escape(name)} *│", line))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_figures_are_rows_and_subjects_columns(printed):
    text = printed(summary(("sft", "base", "ppo")))
    assert text.startswith("40 held-out items\n")
    assert row(text, "gold score") == ["gold score", "1.00", "1.50", "2.00"]
    assert row(text, "right answers") == ["right answers", "50%", "75%", "100%"]
    assert row(text, "gold: wit") == ["gold: wit", "0.25", "0.25", "0.25"]
    assert row(text, "score by rm") == ["score by rm", "2.00", "3.00", "4.00"]
    assert row(text, "score by pmp") == ["score by pmp", "1.00", "1.50", "2.00"]
    assert row(text, "KL to the reference") == ["KL to the reference", "", "3.00", "6.00"]
    assert row(text, "perplexity of pretrain") == ["perplexity of pretrain", "4.05", "4.55", "5.05"]


def test_differences_from_the_reference_with_intervals(printed):
    text = printed(summary(("sft", "ppo")), width=140)
    after = text[text.index("against sft, 95% intervals") :]
    assert row(after, "ppo")[:4] == ["ppo", "62%", "+0.50", "+25.0"]
    assert row(after, "")[:4] == ["", "58% to 66%", "+0.46 to +0.54", "+21.0 to +29.0"]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("names", [SIX, ("one",), ("sft", "a-model-with-a-name-that-" + "is-too-long-" * 6)])
def test_it_is_readable_at_any_width(printed, names, width):
    """No line is wider than the terminal, and no figure is broken or left out."""
    figures = summary(names)
    text = printed(figures, width)
    assert max(map(len, text.splitlines())) <= width
    for name, of in figures["subjects"].items():
        assert f"{of['answers']['gold']:.2f}" in text
        assert f"{of['perplexity']['pretrain']:.2f}" in text
        if len(name) <= 24:
            assert re.search(rf"[│┃] *{re.escape(name)} *[│┃]", text)


def test_more_subjects_than_fit_become_rows(printed):
    text = printed(summary(SIX))
    assert row(text, "ppo-no-kl")[:4] == ["ppo-no-kl", "3.00", "150%", "0.75"]
    wide = printed(summary(SIX), width=140)
    assert row(wide, "gold score")[-1] == "3.50"


def test_tasks_subsets_and_rewards(printed):
    text = printed(summary(("sft", "ppo")))
    assert "gold score by task" in text
    assert row(text, "sum") == ["sum", "20", "1.00", "1.50"]
    assert row(text, "rm") == ["rm", "96.0% ± 2.5, 0.02", "97.8% ± 2.5, 0.02"]
    assert "accuracy on pairs by subset" in text
    assert row(text, "code") == ["code", "10", "50.0% ± 30.0", "50.0% ± 30.0"]


def test_obedience_turn_by_turn(printed):
    text = printed(summary(("sft", "ppo")))
    assert row(text, "instruction obeyed") == ["instruction obeyed", "60%", "60%"]
    assert row(text, "obeyed throughout") == ["obeyed throughout", "25%", "25%"]
    after = text[text.index("instruction obeyed by turn") :]
    assert [row(after, turn) for turn in "13"] == [["1", "75%", "75%"], ["3", "50%", "40%"]]


def test_conversations_alone(printed):
    """A subject that was not asked a turn has an empty cell."""
    figures = summary(("sft", "ppo"), with_rewards=False)
    figures["subjects"] = {name: {"system_prompt": of["system_prompt"]} for name, of in figures["subjects"].items()}
    figures["subjects"]["ppo"]["system_prompt"]["by_turn"] = [0.75]
    text = printed(figures)
    assert text.startswith("40 held-out conversations\n")
    assert row(text, "3") == ["3", "50%", ""]


def test_what_a_subject_cannot_have_has_its_reason(printed):
    figures = summary(("sft", "api"))
    nothing = {"pretrain": None}
    why = {"pretrain": "an endpoint returns no log-probabilities"}
    figures["subjects"]["api"]["perplexity"] = nothing | {"tokens": nothing, "bits_per_byte": nothing, "why": why}
    text = printed(figures, width=120)
    assert row(text, "perplexity of pretrain") == ["perplexity of pretrain", "4.05", "–"]
    labels = "perplexity of pretrain, bits per byte of pretrain"
    assert f"– api has no {labels}: an endpoint returns no log-probabilities" in text


def test_rewards_alone(printed):
    figures = {"reference": None, "reward": "rm", "subjects": {}, "differences": {}, "pairs": {}, "rewards": rewards()}
    text = printed(figures)
    assert text.startswith("accuracy on comparisons ± half the 95% interval, ECE\n")
    assert row(text, "pmp")[1] == "67.0% ± 2.5, 0.02"


def test_an_accuracy_that_length_explains_is_warned_of(printed):
    figures = summary(("sft",))
    figures["rewards"]["rm"]["comparisons"]["pairs"] |= {"length_only_accuracy": 0.9, "length_explains": 0.87}
    assert "rm on pairs: length alone is right on 90.0%" in printed(figures, width=200)


def test_names_are_no_markup(printed):
    figures = summary(("sft", "ppo"))
    figures["subjects"]["sft"]["answers"]["[red]x"] = 0.5
    assert "gold: [red]x" in printed(figures)
