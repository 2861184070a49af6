"""The tables printed at the end of an evaluation, as a terminal shows them."""

import re

import pytest
from rich.console import Console

from eval.closing_table import ClosingTable
from tests.support.evaluation_folder import rewards, summary

SIX = ("sft", "base", "best_of_n", "ppo", "ppo-no-kl", "dpo-from-hub")


@pytest.fixture
def printed(capsys):
    """Return a function that prints the tables of figures and returns the text."""

    def show(figures, width=80):
        Console(width=width).print(ClosingTable(figures))
        return capsys.readouterr().out

    return show


def row(text, name):
    """Return the cells of the first row that begins with a name."""
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
    part = text[text.index("against sft, 95% intervals") :]
    assert row(part, "ppo")[:4] == ["ppo", "62%", "+0.50", "+25.0"]
    assert row(part, "")[:4] == ["", "58% to 66%", "+0.46 to +0.54", "+21.0 to +29.0"]


def test_win_rates_by_each_reward_without_gold(printed):
    after = printed(summary(("sft", "ppo"), gold=False), width=160).partition("against sft, 95% intervals")[2]
    assert after.count("wins by") == 2
    assert row(after, "ppo")[:3] == ["ppo", "62%", "50%"]


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("names", [SIX, ("one",), ("sft", "a-model-with-a-name-that-" + "is-too-long-" * 6)])
def test_the_tables_fit_any_width(printed, names, width):
    """No line is wider than the terminal, and all figures are shown in full."""
    figures = summary(names)
    text = printed(figures, width)
    assert max(map(len, text.splitlines())) <= width
    for name, part in figures["subjects"].items():
        assert f"{part['answers']['gold']:.2f}" in text
        assert f"{part['perplexity']['pretrain']:.2f}" in text
        if len(name) <= 24:
            assert re.search(rf"[│┃] *{re.escape(name)} *[│┃]", text)


def test_more_subjects_than_fit_become_rows(printed):
    text = printed(summary(SIX))
    assert row(text, "ppo-no-kl")[:4] == ["ppo-no-kl", "3.00", "150%", "0.75"]
    wide = printed(summary(SIX), width=140)
    assert row(wide, "gold score")[-1] == "3.50"


def test_figures_by_task_rewards_and_subsets_have_tables(printed):
    text = printed(summary(("sft", "ppo")))
    assert "gold score by task" in text
    assert row(text, "sum") == ["sum", "20", "1.00", "1.50"]
    assert row(text, "rm") == ["rm", "96.0% ± 2.5, 0.02", "97.8% ± 2.5, 0.02"]
    assert "accuracy on pairs by subset" in text
    assert row(text, "code") == ["code", "10", "50.0% ± 30.0", "50.0% ± 30.0"]


def test_obedience_has_figures_and_a_table_by_turn(printed):
    text = printed(summary(("sft", "ppo")))
    assert row(text, "instruction obeyed") == ["instruction obeyed", "60%", "60%"]
    assert row(text, "obeyed throughout") == ["obeyed throughout", "25%", "25%"]
    part = text[text.index("instruction obeyed by turn") :]
    assert [row(part, turn) for turn in "13"] == [["1", "75%", "75%"], ["3", "50%", "40%"]]


def test_an_evaluation_of_system_prompts_only(printed):
    """A turn that a subject did not reach is an empty cell."""
    figures = summary(("sft", "ppo"), with_rewards=False)
    figures["subjects"] = {name: {"system_prompt": part["system_prompt"]} for name, part in figures["subjects"].items()}
    figures["subjects"]["ppo"]["system_prompt"]["by_turn"] = [0.75]
    text = printed(figures)
    assert text.startswith("40 held-out conversations\n")
    assert row(text, "3") == ["3", "50%", ""]


def test_a_missing_figure_is_printed_with_its_reason(printed):
    figures = summary(("sft", "api"))
    nothing = {"pretrain": None}
    why = {"pretrain": "an endpoint returns no log-probabilities"}
    figures["subjects"]["api"]["perplexity"] = nothing | {"tokens": nothing, "bits_per_byte": nothing, "why": why}
    text = printed(figures, width=120)
    assert row(text, "perplexity of pretrain") == ["perplexity of pretrain", "4.05", "–"]
    labels = "perplexity of pretrain, bits per byte of pretrain"
    assert f"– api has no {labels}: an endpoint returns no log-probabilities" in text


def test_an_evaluation_of_rewards_only(printed):
    figures = {"reference": None, "reward": "rm", "subjects": {}, "differences": {}, "pairs": {}, "rewards": rewards()}
    text = printed(figures)
    assert text.startswith("accuracy on comparisons ± half the 95% interval, ECE\n")
    assert row(text, "pmp")[1] == "67.0% ± 2.5, 0.02"


def test_a_warning_is_printed_if_length_explains_an_accuracy(printed):
    figures = summary(("sft",))
    figures["rewards"]["rm"]["comparisons"]["pairs"] |= {"length_only_accuracy": 0.9, "length_explains": 0.87}
    assert "rm on pairs: length alone is right on 90.0%" in printed(figures, width=200)


def test_names_are_not_read_as_markup(printed):
    figures = summary(("sft", "ppo"))
    figures["subjects"]["sft"]["answers"]["[red]x"] = 0.5
    assert "gold: [red]x" in printed(figures)
