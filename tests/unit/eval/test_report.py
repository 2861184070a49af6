"""The report of hand-written run folders, read back as HTML."""

import json
import re
import subprocess
import sys

import pytest

from chatml import encode
from engine.run.folder import plumbline_version
from eval.report.conversation import token_pieces
from eval.report.drawing import PALETTE
from eval.report.page import write_report
from tests.support.evaluation_folder import answer, rewards, write_evaluation
from tests.support.html_page import Page
from tests.support.report_setting import SUBJECTS, write_recipe, write_run
from tests.support.tokenizers import qwen

PLOTS = {
    "gold_proxy", "gold_over_steps", "length_score", "calibration", "accuracy_length", "score_histogram", "ppo_score",
    "ppo_kl_score", "ppo_kl", "ppo_entropy", "ppo_length", "ppo_value", "ppo_update", "ppo_pretrain", "losses",
    "reward_model",
}  # fmt: skip
SIX_SUBJECTS = ("a", "b", "c", "d", "e", "f")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(write_run(folder))
    return folder / "eval"


@pytest.fixture(scope="module")
def html(folder):
    return (folder / "report.html").read_text()


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def report_of(tmp_path, names, texts=None, **options):
    """Return the report of an evaluation whose models have no run folders; `texts` are the answers to item 0."""
    write_evaluation(tmp_path / "eval", names, **options)
    lines = [
        answer(item, name, at, gold=options.get("gold", True), text=(texts or {}).get(name) if item == 0 else None)
        for item in range(3)
        for at, name in enumerate(names)
    ]
    (tmp_path / "eval" / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    named = {"pmp": "owner/pmp", "rm": "owner/rm"}
    write_report(write_recipe(tmp_path, {name: f"owner/{name}" for name in names}, named, None))
    return (tmp_path / "eval" / "report.html").read_text()


def test_the_report_has_all_sections(page):
    verdict = ["✓ Better", "✗ Worse", "? Unclear"]
    assert [h for h in page.headings if not h.startswith("/")] == [
        "words", *verdict, "best", *verdict, "tuned", *verdict,
        "Figures", "Accuracy of rewards on comparisons", "Accuracy on “pairs” by subset",
        "Accuracy on “correctness_pairs” by subset", "By task",
        "Obedience to the system turn, by turn", "Does a higher reward mean better answers?",
        "How reliable are the rewards?", "PPO by step", "Training", "Answers side by side",
        "Tokens trained on", "Runs, data and environment", "Runs", "Seconds by stage", "Data",
        "Commands and recipes", "Environment",
    ]  # fmt: skip


def test_the_page_needs_no_network(html, page):
    assert page.fetched == []
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)


def test_every_plot_is_in_the_page_and_saved_as_png(folder, page):
    assert {path.stem for path in (folder / "plots").glob("*.png")} == PLOTS
    assert page.figures == len(PLOTS)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (folder / "plots").iterdir())
    for text in ("Gold and the reward's score", "KL to talk, nats per answer", "Gold during the training of tuned",
                 "Training words", "explained variance", "score by pmp"):  # fmt: skip
        assert text in page.text


def test_plots_use_the_colours_of_the_page(html):
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}\b", drawn) == []
    for name in PALETTE:
        assert html.count(f"--{name}: #") == 2  # light and dark


def test_a_subject_has_the_same_colour_everywhere(html):
    """Colours are assigned in order, the reference first; tuned is the fourth."""
    for name, colour in zip(SUBJECTS, ("blue", "orange", "green", "purple"), strict=True):
        given = re.findall(rf'style="--c: var\(--(\w+)\)">(?:</span><span>|<div class="who"><b>)?{name}<', html)
        assert set(given) == {colour}
    (score,) = (svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if ">Reward</text>" in svg)
    assert "var(--purple)" in score
    assert "var(--orange)" not in score


def test_no_warning_is_shown_if_answers_ended(page):
    assert "penalties alone" not in page.text


def test_the_header_lists_facts_and_command(page):
    version = plumbline_version()
    for fact in ("date2026-02-03 04:05", "items40", "referencetalk", "seed0", "commandeval x.yaml",
                 f"plumbline{version}", "commit60b08e9"):  # fmt: skip
        assert fact in page.text
    assert re.search(r"machine1 × ", page.text)


def test_generated_text_is_escaped(html, page):
    assert "<script>" not in html
    assert re.search(r"tuned \d+ <script>", page.text)
    assert re.search(r"question \d+ & more", page.text)
    assert '[{"function": {"name": "add", "arguments": {"a": 3}}}]' in page.text


HOSTILE = {
    "a": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "b": "يمين \u202eleft",
    "c": "w" * 10_000,
    "d": "  ",
    "e": "bell \x07 escape \x1b[31m next \x85 half \ud800",
    "f": "{{ 7 * 7 }} </div></body>",
}


@pytest.fixture(scope="module")
def six_subjects_html(tmp_path_factory):
    return report_of(tmp_path_factory.mktemp("six"), SIX_SUBJECTS, HOSTILE)


def test_hostile_answers_are_escaped(six_subjects_html):
    page = Page(six_subjects_html)
    assert not page.tags & {"script", "img"}
    assert HOSTILE["a"] in page.text
    assert "يمين \ufffdleft" in page.text
    assert "bell ␇ escape ␛[31m next \ufffd half \ufffd" in page.text
    assert HOSTILE["f"] in page.text
    assert "(empty)" in page.text


def test_a_long_answer_is_folded_and_complete(six_subjects_html):
    page = Page(six_subjects_html)
    assert "the other 9,400 characters" in page.text
    assert page.text.count("w") >= 10_000


def test_trained_tokens_of_a_conversation_are_marked(page):
    """Only the model finetuned on conversations has this section, not the one trained on plain text."""
    assert "".join(page.trained).replace("⏎", "") == "The quick brown fox\njumps.<|im_end|><b>seven</b><|im_end|>"
    assert len(page.trained) > 10
    assert "The first training conversation of talk" in page.text
    assert "conversation of words" not in page.text


def test_figures_are_those_of_the_summary(html, page):
    for shown in ("1,234", "56,789", "96.0%", "12", "value_warmup_steps", "+0.46 to +0.54, n 40", "0.023"):
        assert shown in page.text
    (row,) = re.findall(r"<tr><th[^>]*>gold score.*?</tr>", html, re.DOTALL)
    assert re.findall(r'<span class="value">([\d.]+)', row) == ["1.00", "1.50", "2.00", "2.50"]
    assert re.findall(r"<b>([^<]+)</b>", row) == ["+0.50 better", "+1.00 better", "+1.50 better"]


def test_better_worse_and_unclear_are_words_too(html, page):
    """Not colours alone: in the verdict, in the tiles and in the table."""
    for words in ("What changed against talk", "bits per byte of pretrain+0.300+0.260 to +0.340, n 50"):
        assert words in page.text
    assert '<b class="worse">5.55</b><span class="tone worse">worse</span>' in html
    (row,) = re.findall(r"<tr><th[^>]*>bits per byte.*?</tr>", html, re.DOTALL)
    assert re.findall(r"<b>([^<]+)</b>", row) == ["+0.100 worse", "+0.200 worse", "+0.300 worse"]
    (row,) = re.findall(r"<tr><th[^>]*>instruction obeyed.*?</tr>", html, re.DOTALL)
    assert re.findall(r"<b>([^<]+)</b>", row) == ["+0.0 unclear"] * 3


def test_every_run_has_its_figures(html):
    """Of the folders of subjects and rewards, and of the evaluation itself."""
    (table,) = re.findall(r"<h3>Runs</h3>.*?</table>", html, re.DOTALL)
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
    assert [row[0] for row in rows] == ["run", "talk", "words", "tuned", "pmp", "rm", "eval"]
    assert rows[0][1:5] == ["steps", "learning rate", "tokens a second", "finished"]
    assert rows[1][1:5] == ["8", "0.002, cosine", "500", "2026-01-02 03:04"]
    assert rows[3][1:5] == ["8", "policy 7e-05, value 0.001, constant", "500", "2026-01-02 03:04"]


def test_every_cell_names_its_column_for_narrow_screens(html, six_subjects_html):
    """There a row is a block with a line for each cell, so that no column is off the screen."""
    for page in (html, six_subjects_html):
        tables = [table for table in re.findall(r"<table>.*?</table>", page, re.DOTALL) if "<thead>" in table]
        assert len(tables) >= 6
        for table in tables:
            (head,) = re.findall(r"<thead>.*?</thead>", table)
            columns = re.findall(r"<th[^>]*>([^<]*)</th>", head)[1:]
            for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)[1:]:
                assert re.findall(r'<td(?: class="[^"]*")? data-column="([^"]*)"', row) == columns
                assert row.count("<td") == len(columns)


def test_six_subjects_are_shown_side_by_side(six_subjects_html):
    assert six_subjects_html.count('<div class="answer"') == 6 * 3
    assert len(set(re.findall(r'<div class="answer" style="--c: var\(--(\w+)\)"', six_subjects_html))) == 6
    assert "f − e" in Page(six_subjects_html).text  # the other pairs


def test_a_report_of_one_subject_without_gold_and_rewards(tmp_path):
    html = report_of(tmp_path, ("only",), gold=False, with_rewards=False)
    page = Page(html)
    assert "3 of 3 items, evenly spaced from lowest to highest score" in page.text
    assert "only is the only subject, so there is no verdict" in page.text
    assert "Accuracy of rewards" not in page.text


def test_without_gold_the_rewards_judge(tmp_path):
    page = Page(report_of(tmp_path, ("one", "other"), gold=False))
    assert "There is no gold scorer, so this is only as reliable as the rewards." in page.text
    for words in ("by rm62%58% to 66%, n 40", "by pmp50%46% to 54%, n 40"):
        assert f"preferred to one {words}" in page.text


def test_without_gold_and_rewards_nothing_scores_the_answers(tmp_path):
    write_evaluation(tmp_path / "eval", ("one", "other"), gold=False, with_rewards=False)
    path = tmp_path / "eval" / "summary.json"
    figures = json.loads(path.read_text()) | {"reward": None}
    for of in (*figures["subjects"].values(), *figures["differences"].values()):
        for name in ("score", "scores", "win_rate", "win_rates", "tasks"):
            of["answers"].pop(name, None)
    path.write_text(json.dumps(figures))
    write_report(write_recipe(tmp_path, {"one": "owner/one", "other": "owner/other"}, {}, None))
    page = Page((tmp_path / "eval" / "report.html").read_text())
    assert "Nothing scores the answers; give eval.gold or eval.rewards." in page.text
    assert "bits per byte of pretrain+0.100+0.060 to +0.140, n 50" in page.text


def test_a_report_of_rewards_only(tmp_path):
    (tmp_path / "eval").mkdir()
    figures = {"reference": None, "reward": "rm", "subjects": {}, "differences": {}, "pairs": {}, "rewards": rewards()}
    (tmp_path / "eval" / "summary.json").write_text(json.dumps(figures | {"seconds": {"eval": 1.0}}))
    write_report(write_recipe(tmp_path, {}, {"pmp": "owner/pmp", "rm": "owner/rm"}, None))
    page = Page((tmp_path / "eval" / "report.html").read_text())
    assert "Accuracy of rewards on comparisons" in page.headings
    assert "Answers side by side" not in page.headings


def test_a_missing_figure_has_a_footnote_with_the_reason(six_subjects_html):
    assert six_subjects_html.count('title="every answer is right"') == len(SIX_SUBJECTS)
    assert "<sup>1</sup> every answer is right" in six_subjects_html


def test_tokens_of_one_character_are_shown_together():
    tokenizer = qwen()
    encoded = encode([{"role": "user", "content": "naïve 😀"}], tokenizer)
    row = {"input_ids": encoded.input_ids, "labels": encoded.labels}
    shown = token_pieces(row, tokenizer)
    assert "".join(piece.text for piece in shown) == "<|im_start|>user\nnaïve 😀<|im_end|>\n"
    assert "😀" in [piece.text for piece in shown]
    assert [piece.text for piece in shown if piece.control] == ["<|im_start|>", "<|im_end|>"]
    assert not any(piece.trained for piece in shown)


def test_figures_by_task_have_a_table(html):
    (table,) = re.findall(r"<h3>By task</h3>.*?</table>", html, re.DOTALL)
    cells = [
        re.findall(r'<t[hd][^>]*>(?:<span class="value">)?([^<]*)<', row)
        for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
    ]
    rows = [[cell.strip() for cell in row] for row in cells]
    assert rows == [
        ["task", *SUBJECTS],
        ["sum", "1.00", "1.50", "2.00", "2.50"],
        ["fact", "1.00", "1.50", "2.00", "2.50"],
    ]


def test_obedience_by_turn_has_a_table(html):
    (table,) = re.findall(r"<h3>Obedience to the system turn[^<]*</h3>.*?</table>", html, re.DOTALL)
    shares = [re.findall(r"[>\s](\d+%)[<\s]", row) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
    assert shares == [[], ["75%"] * 4, ["65%"] * 4, ["50%", "40%", "30%", "20%"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: no recipe given; usage: python -m eval.report RECIPE.yaml [--check] [key=value ...]\n"),
        (["eval.gold=x:y"], "error: no recipe given; usage: python -m eval.report RECIPE.yaml [--check] "
         "[key=value ...]\n"),
        (["recipes/tiny/eval.yaml", "eval.glod=x:y"], "error: unknown key eval.glod; did you mean eval.gold?\n"),
    ],
)  # fmt: skip
def test_mistakes_on_the_command_line_are_one_line(arguments, message):
    command = [sys.executable, "-m", "eval.report", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (2, message)
