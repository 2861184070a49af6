"""The report of training runs that have not been evaluated: plots, training data, and what is missing."""

import json
import re
import shutil
from pathlib import Path

import pytest

from config import load
from engine.errors import RunError
from engine.run.entry import run
from eval.recipe import Eval
from eval.report.page import write_report
from tests.support.html_page import Page
from tests.support.report_setting import write_run
from tests.support.stage_runs import write_jsonl


def unevaluated(recipe):
    """The page of training runs alone, which is written before the error says what is missing."""
    with pytest.raises(RunError, match=r"nothing has been evaluated yet; .*report.html shows the training runs alone"):
        write_report(recipe)
    return (Path(recipe.run.dir) / "report.html").read_text()


def test_ppo_steps_without_a_finished_answer_are_reported(tmp_path):
    recipe = write_run(tmp_path, evaluated=False)
    metrics = tmp_path / "tuned" / "metrics.jsonl"
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    write_jsonl(metrics, [row | ({"score": None, "without_end": 1.0} if row["step"] <= 6 else {}) for row in rows])
    assert (
        "tuned: no answer ended in 6 of 8 steps, most recently in step 6. Such a step has no score, so the policy "
        "learns from penalties alone."
    ) in Page(unevaluated(recipe)).text


def test_a_ppo_run_without_any_score_has_no_plot_of_it(tmp_path):
    recipe = write_run(tmp_path, evaluated=False)
    metrics = tmp_path / "tuned" / "metrics.jsonl"
    write_jsonl(metrics, [json.loads(line) | {"score": None} for line in metrics.read_text().splitlines()])
    page = Page(unevaluated(recipe))
    plots = {path.stem for path in (tmp_path / "eval" / "plots").iterdir()}
    assert not plots & {"ppo_score", "ppo_kl_score"}
    assert {"ppo_kl", "gold_over_steps"} <= plots
    assert "reward's score" not in page.text


def test_the_parts_of_a_reward_mix_have_a_plot(tmp_path):
    recipe = write_run(tmp_path, evaluated=False)
    run = tmp_path / "tuned"
    (run / "recipe.yaml").write_text(
        (run / "recipe.yaml").read_text().replace(f"{{path: {tmp_path}/rm/model}}", "{mix: {kind: x, right: y}}")
    )
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    write_jsonl(run / "metrics.jsonl", [row | {"score_kind": 1.0, "score_right": 2.0 * row["step"]} for row in rows])
    text = Page(unevaluated(recipe)).text
    assert (tmp_path / "eval" / "plots" / "ppo_parts_tuned.png").exists()
    for words in ("Parts of the reward of tuned", "score by kind", "score by right"):
        assert words in text


def test_every_ppo_run_is_in_the_plots(tmp_path):
    recipe = write_run(tmp_path, {"talk": "sft", "tuned": "ppo", "words": "ppo"}, evaluated=False)
    html = unevaluated(recipe)
    (score,) = (svg for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if ">Reward</text>" in svg)
    assert {"tuned", "words"} <= set(re.findall(r">([^<>\n]+)</text>", score))
    assert {path.stem for path in (tmp_path / "eval" / "plots").iterdir()} >= {"gold_over_steps", "gold_over_steps_2"}


def test_a_report_before_ppo_and_evaluation(tmp_path):
    page = Page(unevaluated(write_run(tmp_path, {"words": "sft", "talk": "sft"}, evaluated=False)))
    assert "Nothing has been evaluated yet; run make eval. This report shows the training runs." in page.text
    assert {path.stem for path in (tmp_path / "eval" / "plots").iterdir()} == {"losses"}
    assert "Figures" not in page.headings


def test_missing_training_data_is_named(tmp_path):
    recipe = write_run(tmp_path, {"talk": "sft"}, evaluated=False)
    (tmp_path / "world" / "talk.jsonl").unlink()
    page = Page(unevaluated(recipe))
    assert f"The training data of talk cannot be shown: {tmp_path}/world/talk.jsonl does not exist" in page.text


def test_training_data_of_an_unfinished_run_is_not_shown_and_the_reason_is_given(tmp_path):
    recipe = write_run(tmp_path, {"talk": "sft"}, evaluated=False)
    shutil.rmtree(tmp_path / "talk" / "model", ignore_errors=True)
    page = Page(unevaluated(recipe))
    assert (
        f"The training data of talk cannot be shown: {tmp_path}/talk/model does not exist; the run has not finished"
        in page.text
    )


@pytest.mark.parametrize("has_run", [False, True])
def test_a_report_without_evaluation_and_training_is_an_error(tmp_path, capsys, has_run):
    """There is no run folder, or its run failed before the first step."""
    recipe = write_run(tmp_path, {"talk": "sft"} if has_run else {}, evaluated=False)
    if has_run:
        (tmp_path / "talk" / "metrics.jsonl").write_text("")
    with pytest.raises(SystemExit) as stopped:
        run(write_report, recipe)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"error: run.dir={tmp_path}/eval: nothing has been evaluated yet; run make eval with the same RECIPE and ARGS\n"
    )
    assert not (tmp_path / "eval" / "report.html").exists()


def test_the_report_of_a_real_run(mini, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY", str(mini))
    page = Page(unevaluated(load(Eval, "recipes/tiny-mini/eval.yaml", [f"run.dir={tmp_path}"])))
    assert page.figures >= 10
    assert "".join(page.trained).endswith("<|im_end|>")
