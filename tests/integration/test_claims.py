"""make claims: which commands it runs, what it makes of their figures, and that it is resumable."""

import json

import pytest

import bench.claims
from bench.claims import ARMS, CLAIMS, MEANINGS, SEEDS, document, figures, main


def write_run(arm, score):
    """A PPO run of sixty steps, measured every ten, with its evaluation."""
    (arm / "eval").mkdir(parents=True)
    rows = [
        {"step": n, "entropy": 1.0, "kl": 2.0, "explained_variance": n / 100,
         **({"heldout_score": score * n, "heldout_gold": -abs(n - 40)} if n % 10 == 0 else {})}
        for n in range(1, 61)
    ]  # fmt: skip
    (arm / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (arm / "eval" / "summary.json").write_text(json.dumps({"pretrain_ppl_ppo": 3.5}))
    (arm / "finished.json").write_text(json.dumps({"steps": 60, "seconds": 60.0}))


def test_figures_by_hand(tmp_path):
    write_run(tmp_path / "arm", 2.0)
    assert figures(tmp_path / "arm", 10) == {
        "score": 120.0, "score_halfway": 60.0, "gold": -20.0, "best_gold": 0.0, "entropy": 1.0, "kl": 2.0,
        "early_explained_variance": pytest.approx(0.13), "pretrain_ppl": 3.5,
    }  # fmt: skip


def test_every_claim_speaks_of_arms_and_figures_that_there_are():
    for claim in CLAIMS:
        assert set(claim.arms) <= ARMS.keys()
        assert set(claim.figures) <= MEANINGS.keys()


def test_a_verdict_counts_seeds():
    plain = dict.fromkeys(MEANINGS, 1.0)
    better = {seed: {arm: dict(plain) for arm in ARMS} for seed in SEEDS}
    for seed in SEEDS[:2]:
        better[seed]["as the recipe"]["score"] = 2.0
    text = document(better, 5.0)
    assert text.count("**It is not clear: 2 of 3 seeds.**") == 4  # wherever the recipe should score higher
    assert "| as the recipe | 1.67 (2, 2, 1) | 1 (1, 1, 1) | 1 (1, 1, 1) | 1 (1, 1, 1) |" in text
    assert "| KL 0 (`ppo.kl_coef=0`) |" in text
    assert "- Claimed: 0.9 has lower entropy than 1.0. **It does not show: 0 of 3 seeds.**" in text
    assert "its runs took 5 minutes together" in text


def test_everything_once_a_seed_and_an_arm(tmp_path, monkeypatch):
    calls = []

    def run(command, tiny):
        calls.append(command)
        if command[0] == "tiny":
            (tiny / "world").mkdir(parents=True)
        if command[0] == "ppo":
            folder = next(word.removeprefix("run.dir=") for word in command if word.startswith("run.dir="))
            write_run(tmp_path / folder, 1.0)

    monkeypatch.setattr(bench.claims, "run", run)
    monkeypatch.chdir(tmp_path)
    main(["--folder", "claims", "--out", "claims.md"])
    per_seed = 1 + 4 + len(ARMS)
    assert len(calls) == len(SEEDS) * per_seed
    assert f"its runs took {len(SEEDS) * len(ARMS)} minutes together" in (tmp_path / "claims.md").read_text()
    assert calls[1] == ["sft", "recipes/tiny/base.yaml", "run.seed=11"]
    assert calls[6] == [
        "ppo", "recipes/tiny/ppo.yaml", "run.seed=11", "run.dir=claims/11/ppo-1",
        "data.heldout={path: claims/11/world/prompts_heldout.jsonl, take: 100}", "watch.gold=tiny.gold:score",
        "ppo.value_warmup_steps=0", "ppo.steps=50",
    ]  # fmt: skip
    assert (tmp_path / "claims.md").read_text().startswith("# The report's claims about PPO, in the tiny world\n")
