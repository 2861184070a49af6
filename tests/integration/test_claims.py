"""`make claims`: the commands it runs, the figures and verdicts it computes, and resuming."""

import json
from pathlib import Path

import pytest

import bench.claims
from bench.claims import ARMS, CLAIMS, MEANINGS, SEEDS, document, evaluation_overrides, main, read_figures, seed_figures
from config import load
from eval.recipe import Eval
from tests.support.paths import ROOT


def write_run(arm, score):
    """Write a PPO run of 60 steps with held-out figures every 10 steps."""
    arm.mkdir(parents=True)
    rows = [
        {"step": n, "entropy": 1.0, "kl": 2.0, "explained_variance": n / 100,
         **({"heldout_score_helpful": score * n, "heldout_gold": -abs(n - 40)} if n % 10 == 0 else {})}
        for n in range(1, 61)
    ]  # fmt: skip
    (arm / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (arm / "finished.json").write_text(json.dumps({"steps": 60, "seconds": 60.0}))


def write_evaluation(folder):
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"subjects": {"ppo": {"perplexity": {"pretrain": 3.5}}}}))


def test_the_figures_of_a_run_by_hand(tmp_path):
    write_run(tmp_path / "arm", 2.0)
    write_evaluation(tmp_path / "arm" / "eval")
    assert read_figures(tmp_path / "arm", 10) == {
        "score": 120.0, "score_halfway": 60.0, "gold": -20.0, "best_gold": 0.0, "entropy": 1.0, "kl": 2.0,
        "early_explained_variance": pytest.approx(0.13), "pretrain_ppl": 3.5,
    }  # fmt: skip


def test_every_claim_names_existing_arms_and_figures():
    for claim in CLAIMS:
        assert set(claim.arms) <= ARMS.keys()
        assert set(claim.figures) <= MEANINGS.keys()


def test_a_verdict_is_by_the_number_of_seeds_that_confirm_the_claim():
    plain = dict.fromkeys(MEANINGS, 1.0)
    better = {seed: {arm: dict(plain) for arm in ARMS} for seed in SEEDS}
    for seed in SEEDS[:2]:
        better[seed]["as the recipe"]["score"] = 2.0
    text = document(better, 5.0)
    assert text.count("**Unclear: 2 of 3 seeds.**") == 4  # wherever the recipe should score higher
    assert "| as the recipe | 1.67 (2, 2, 1) | 1 (1, 1, 1) | 1 (1, 1, 1) | 1 (1, 1, 1) |" in text
    assert "| KL 0 (`ppo.kl_coef=0`) |" in text
    assert "- Claim: the entropy is lower with 0.9 than with 1.0. **Not confirmed: 0 of 3 seeds.**" in text
    assert "total time of the runs: 5 minutes)" in text


def test_every_stage_runs_once_per_seed_and_every_arm_once_per_seed(tmp_path, monkeypatch):
    calls = []

    def run(command, tiny):
        calls.append(command)
        if command[0] == "tiny":
            (tiny / "world").mkdir(parents=True)
        folder = next((word.removeprefix("run.dir=") for word in command if word.startswith("run.dir=")), "")
        if command[0] == "ppo":
            write_run(tmp_path / folder, 1.0)
        if command[0] == "eval":
            write_evaluation(tmp_path / folder)

    monkeypatch.setattr(bench.claims, "run_stage", run)
    monkeypatch.chdir(tmp_path)
    main(["--folder", "claims", "--out", "claims.md"])
    per_seed = 1 + 5 + 2 * len(ARMS)
    assert len(calls) == len(SEEDS) * per_seed
    assert f"total time of the runs: {len(SEEDS) * len(ARMS)} minutes)" in (tmp_path / "claims.md").read_text()
    assert calls[1] == ["sft", "recipes/tiny/base.yaml", "run.seed=11"]
    assert calls[8] == [
        "ppo", "recipes/tiny/ppo.yaml", "run.seed=11", "run.dir=claims/11/ppo-1",
        "data.heldout={path: claims/11/world/prompts_watched.jsonl}", "watch.gold=tiny.gold:score",
        "ppo.value_warmup_steps=0", "ppo.steps=40",
    ]  # fmt: skip
    assert calls[9][:4] == ["eval", "recipes/tiny/eval.yaml", "run.seed=11", "run.dir=claims/11/ppo-1/eval"]
    assert (tmp_path / "claims.md").read_text().startswith("# The report's claims about PPO, in the tiny world\n")


def test_a_finished_evaluation_is_not_repeated(tmp_path, monkeypatch):
    calls = []
    for arm in range(len(ARMS)):
        write_run(tmp_path / "11" / f"ppo-{arm}", 1.0)
        write_evaluation(tmp_path / "11" / f"ppo-{arm}" / "eval")
    monkeypatch.setattr(bench.claims, "run_stage", lambda command, tiny: calls.append(command[0]))
    assert seed_figures(11, tmp_path).keys() == ARMS.keys()
    assert "eval" not in calls


def test_an_arm_is_evaluated_alone_and_only_for_perplexity():
    """The overrides give a valid recipe."""
    recipe = load(Eval, ROOT / "recipes" / "tiny" / "eval.yaml", evaluation_overrides(11, Path("arm")))
    assert recipe.eval.subjects == {"ppo": "arm/model"}
    assert list(recipe.measures) == ["perplexity"]
    assert recipe.run.dir == "arm/eval"
