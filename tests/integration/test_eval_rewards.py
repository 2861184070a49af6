"""Evaluations of reward models: ensembles, several sets of comparisons, subsets, and no subject."""

import json

import pytest

from config import load
from engine.files import jsonl
from eval.evaluate import evaluate
from eval.recipe import Eval
from tests.support.eval_setting import make_setting


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("eval"))


@pytest.fixture(scope="module")
def folder(setting):
    """Run the evaluation; return the folder of the models, with the run folder in eval/."""
    evaluate(load(Eval, setting))
    return setting.parent


def test_an_ensemble_scores_mean_minus_std_coef_times_deviation(folder, tmp_path):
    both = f"eval.rewards.both={{path: [{folder}/rm/model, {folder}/pmp/model], std_coef: 2}}"
    evaluate(load(Eval, folder / "eval.yaml", [both, f"run.dir={tmp_path}"]))
    for row in [*jsonl.read(tmp_path / "pairs.jsonl"), *jsonl.read(tmp_path / "answers.jsonl")]:
        rm, pmp, ours = (row["scores"][name] for name in ("rm", "pmp", "both"))
        for one, other, got in zip(rm, pmp, ours, strict=True) if isinstance(rm, list) else [(rm, pmp, ours)]:
            # The mean minus twice the standard deviation, which for two scores is half their distance.
            expected = None if one is None else pytest.approx((one + other) / 2 - abs(one - other), abs=1e-6)
            assert got == expected
    # The last reward gives `score`, unless eval.reward names another.
    assert json.loads((tmp_path / "summary.json").read_text())["reward"] == "both"


def test_reward_models_can_be_evaluated_without_subjects(folder, tmp_path, capsys):
    """As in the report's table 4: reward models by sets of comparisons."""
    path = tmp_path / "eval.yaml"
    path.write_text(
        f"stage: eval\n"
        f"eval: {{rewards: {{pmp: {folder}/pmp/model, both: [{folder}/pmp/model, {folder}/rm/model]}}}}\n"
        f"data: {{comparisons: {{one: {folder}/world/pairs.jsonl, two: {folder}/world/correctness.jsonl}}}}\n"
        f"run: {{dir: {tmp_path}/run}}\n"
    )
    evaluate(load(Eval, path))
    figures = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert figures["subjects"] == figures["differences"] == figures["pairs"] == {}
    assert {reward: list(measured["comparisons"]) for reward, measured in figures["rewards"].items()} == {
        "pmp": ["one", "two"],
        "both": ["one", "two"],
    }
    rows, before = jsonl.read(tmp_path / "run" / "pairs.jsonl"), jsonl.read(folder / "eval" / "pairs.jsonl")
    assert [row["set"] for row in rows] == ["one"] * 9 + ["two"] * 5
    assert [row["scores"]["pmp"] for row in rows] == [row["scores"]["pmp"] for row in before]
    assert "one (9)" in capsys.readouterr().out
    assert jsonl.read(tmp_path / "run" / "answers.jsonl") == []


def test_accuracy_is_computed_for_each_subset_of_comparisons(folder):
    """Records with a `subset`, as in RewardBench."""
    summary = json.loads((folder / "eval" / "summary.json").read_text())
    rows = [row for row in jsonl.read(folder / "eval" / "pairs.jsonl") if row["set"] == "pairs"]
    figures = summary["rewards"]["rm"]["comparisons"]["pairs"]
    assert list(figures["subsets"]) == ["chat", "math"]
    for name, of_subset in figures["subsets"].items():
        scores = [row["scores"]["rm"] for row in rows if row["subset"] == name]
        assert len(scores) == of_subset["pairs"] == 3
        assert of_subset["accuracy"] == sum(chosen > rejected for chosen, rejected in scores) / 3
