"""The report of hand-written run folders, read back as HTML."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from chatml import encode
from config import load
from engine.errors import RunError
from engine.run.entry import run
from eval.recipe import Eval
from eval.report.conversation import token_pieces
from eval.report.drawing import PALETTE, binned_mean, running_mean
from eval.report.page import write_report
from tests.support.evaluation_folder import answer, rewards, write_evaluation
from tests.support.html_page import Page
from tests.support.report_setting import SUBJECTS, write_recipe, write_run
from tests.support.stage_runs import write_jsonl
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
    assert [h for h in page.headings if not h.startswith("/")] == [
        "Figures", "Accuracy of rewards on comparisons", "Accuracy on “pairs” by subset",
        "Accuracy on “correctness_pairs” by subset", "By task",
        "Obedience to the system turn, by turn", "Does a higher reward mean better answers?",
        "How reliable are the rewards?", "PPO by step", "Training", "Answers side by side",
        "Tokens trained on", "Runs, data and environment", "Seconds by stage", "Data", "Recipes",
        "Environment",
    ]  # fmt: skip


def test_ppo_steps_without_a_finished_answer_are_reported(tmp_path, page):
    assert "penalties alone" not in page.text
    recipe = write_run(tmp_path, evaluated=False)
    metrics = tmp_path / "tuned" / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    write_jsonl(metrics, [row | ({"score": None, "without_end": 1.0} if row["step"] <= 6 else {}) for row in rows])
    write_report(recipe)
    assert (
        "tuned: no answer ended in 6 of 8 steps, most recently in step 6. Such a step has no score, so the policy "
        "learns from penalties alone."
    ) in Page((tmp_path / "eval" / "report.html").read_text()).text


def test_the_parts_of_a_reward_mix_have_a_plot(tmp_path):
    recipe = write_run(tmp_path, evaluated=False)
    run = tmp_path / "tuned"
    (run / "recipe.yaml").write_text(
        (run / "recipe.yaml").read_text().replace(f"{{path: {tmp_path}/rm/model}}", "{mix: {kind: x, right: y}}")
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    write_jsonl(run / "metrics.jsonl", [row | {"score_kind": 1.0, "score_right": 2.0 * row["step"]} for row in rows])
    write_report(recipe)
    assert (tmp_path / "eval" / "plots" / "ppo_parts_tuned.png").exists()
    text = Page((tmp_path / "eval" / "report.html").read_text()).text
    for words in ("Parts of the reward of tuned", "score by kind", "score by right"):
        assert words in text


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


def test_the_header_lists_date_items_reference_seed_and_command(page):
    for text in ("date2026-02-03 04:05", "items40", "referencetalk", "seed0", "commandeval x.yaml"):
        assert text in page.text
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
    assert re.findall(r"<td[^>]*>([\d.]+)", row) == ["1.00", "1.50", "2.00", "2.50"]
    assert re.findall(r"<b>([^<]+)</b>", row) == ["+0.50", "+1.00", "+1.50"]


def test_six_subjects_are_shown_side_by_side(six_subjects_html):
    assert six_subjects_html.count('<div class="answer"') == 6 * 3
    assert len(set(re.findall(r'<div class="answer" style="--c: var\(--(\w+)\)"', six_subjects_html))) == 6
    assert "f − e" in Page(six_subjects_html).text  # the other pairs


def test_a_report_of_one_subject_without_gold_and_rewards(tmp_path):
    html = report_of(tmp_path, ("only",), gold=False, with_rewards=False)
    page = Page(html)
    assert "3 of 3 items, evenly spaced from lowest to highest score" in page.text
    assert "compared with only" not in page.text
    assert "Accuracy of rewards" not in page.text


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
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)]
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


def test_a_running_mean_has_a_shorter_window_at_the_ends():
    assert running_mean([1.0, 2.0, 6.0, 3.0], 1).tolist() == [1.5, 3.0, 11 / 3, 4.5]


def test_binned_means_by_hand():
    assert binned_mean([1, 2, 9, 10], [0.0, 2.0, 5.0, 7.0], 3) == ([1.5, 9.5], [1.0, 6.0])
    assert binned_mean([4, 4], [1.0, 2.0], 3) == ([4.0], [1.5])


def test_every_ppo_run_is_in_the_plots(tmp_path):
    recipe = write_run(tmp_path, {"talk": "sft", "tuned": "ppo", "words": "ppo"}, evaluated=False)
    write_report(recipe)
    html = (tmp_path / "eval" / "report.html").read_text()
    (score,) = (svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if ">Reward</text>" in svg)
    assert {"tuned", "words"} <= set(re.findall(r">([^<>\n]+)</text>", score))
    assert {path.stem for path in (tmp_path / "eval" / "plots").iterdir()} >= {"gold_over_steps", "gold_over_steps_2"}


def test_a_report_before_ppo_and_evaluation(tmp_path):
    write_report(write_run(tmp_path, {"words": "sft", "talk": "sft"}, evaluated=False))
    page = Page((tmp_path / "eval" / "report.html").read_text())
    assert "Nothing has been evaluated yet; run make eval. This report shows the training runs." in page.text
    assert {path.stem for path in (tmp_path / "eval" / "plots").iterdir()} == {"losses"}
    assert "Figures" not in page.headings


def test_missing_training_data_is_named(tmp_path):
    recipe = write_run(tmp_path, {"talk": "sft"}, evaluated=False)
    (tmp_path / "world" / "talk.jsonl").unlink()
    write_report(recipe)
    assert (
        f"The training data of talk cannot be shown: {tmp_path}/world/talk.jsonl does not exist"
        in Page((tmp_path / "eval" / "report.html").read_text()).text
    )


def test_training_data_of_an_unfinished_run_is_not_shown_and_the_reason_is_given(tmp_path):
    recipe = write_run(tmp_path, {"talk": "sft"}, evaluated=False)
    shutil.rmtree(tmp_path / "talk" / "model", ignore_errors=True)
    write_report(recipe)
    assert (
        f"The training data of talk cannot be shown: {tmp_path}/talk/model does not exist; the run has not finished"
        in Page((tmp_path / "eval" / "report.html").read_text()).text
    )


@pytest.mark.parametrize("has_run", [False, True])
def test_a_report_without_evaluation_and_training_is_an_error(tmp_path, capsys, has_run):
    """There is no run folder, or its run failed before the first step."""
    recipe = write_run(tmp_path, {"talk": "sft"} if has_run else {}, evaluated=False)
    if has_run:
        (tmp_path / "talk" / "metrics.jsonl").write_text("")
    with pytest.raises(RunError):
        write_report(recipe)
    with pytest.raises(SystemExit) as stopped:
        run(write_report, recipe)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"error: run.dir={tmp_path}/eval: nothing has been evaluated or trained yet; run make eval\n"
    )


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


def test_the_report_of_a_real_run(mini, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY", str(mini))
    write_report(load(Eval, "recipes/tiny-mini/eval.yaml", [f"run.dir={tmp_path}"]))
    page = Page((tmp_path / "report.html").read_text())
    assert page.figures >= 10
    assert "".join(page.trained).endswith("<|im_end|>")
