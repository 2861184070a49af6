"""Evaluations of reward models: several together, and without any policy."""

import json

import pytest

from config import RecipeError, load
from engine.run.metrics import read
from eval.evaluate import evaluate
from eval.page import write_report
from eval.recipe import Eval
from tests.support.eval_setting import make_setting


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("eval"))


@pytest.fixture(scope="module")
def folder(setting):
    """The run folder of a finished evaluation."""
    evaluate(load(Eval, setting))
    return setting.parent


def test_several_reward_models_are_averaged(folder, tmp_path):
    models = [f"{folder}/rm/model", f"{folder}/pmp/model"]
    overrides = [f"eval.reward=[{','.join(models)}]", "eval.best_of_n=1", f"run.dir={tmp_path}"]
    evaluate(load(Eval, folder / "eval.yaml", overrides))
    for one, both in zip(read(folder / "pairs.jsonl"), read(tmp_path / "pairs.jsonl"), strict=True):
        expected = [(a + b) / 2 for a, b in zip(one["scores"]["rm"], one["scores"]["pmp"], strict=True)]
        assert both["scores"]["rm"] == pytest.approx(expected, abs=1e-5)


def test_reward_models_alone_can_be_evaluated(folder, tmp_path, capsys):
    """Rows and columns of the report's table 4, without any policy."""
    path = tmp_path / "eval.yaml"
    path.write_text(
        f"eval: {{pmp: {folder}/pmp/model, rewards: {{both: [{folder}/pmp/model, {folder}/rm/model]}}}}\n"
        f"data: {{comparisons: {{one: {folder}/world/pairs.jsonl, two: {folder}/world/correctness.jsonl}}}}\n"
        f"run: {{dir: {tmp_path}/run}}\n"
    )
    evaluate(load(Eval, path))
    figures = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert figures.keys() == {"reward_models", "seconds"}
    assert {model: list(sets) for model, sets in figures["reward_models"].items()} == {
        "pmp": ["one", "two"], "both": ["one", "two"],
    }  # fmt: skip
    rows, before = read(tmp_path / "run" / "pairs.jsonl"), read(folder / "pairs.jsonl")
    assert [row["data"] for row in rows] == ["one"] * 9 + ["two"] * 5
    assert [row["scores"]["pmp"] for row in rows] == [row["scores"]["pmp"] for row in before]
    assert "one (9)" in capsys.readouterr().out
    write_report(load(Eval, path))
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Can the score be trusted?" in page
    assert (tmp_path / "run" / "plots" / "calibration.png").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["eval.sft=null"], "data.prompts needs eval.sft beside it; give both or neither"),
        (["data.prompts=null"], "eval.sft needs data.prompts beside it; give both or neither"),
        (
            ["eval.sft=null", "data.prompts=null"],
            "eval.ppo needs eval.sft beside it; give that, or leave both out",
        ),
        (["eval.rewards={rm: x}"], "eval.rewards.rm has the name of eval.reward; choose another"),
        (["data.comparisons={pairs: x}"], "data.comparisons.pairs has the name of data.pairs; choose another"),
        (
            ["eval={sft: null, ppo: null, base: null, gold: null}", "data={prompts: null, pairs: null, "
             "correctness_pairs: null}"],
            "nothing to evaluate; give eval.sft and data.prompts, or eval.reward and data.pairs",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together(setting, overrides, message):
    with pytest.raises(RecipeError) as error:
        load(Eval, setting, overrides)
    assert str(error.value).endswith(message)
