"""Monitoring of a PPO run: warnings, held-out gold, the console's table and responses."""

import pytest

from config import RecipeError
from engine.files.jsonl import read
from engine.generation.rollout_records import RolloutRecord
from engine.run.console import Steps
from ppo.step_metrics import as_text
from ppo.train import train
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import same, untimed, weights


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def gold(record, answer):
    return {"gold": float(len(answer))}


def test_monitoring_does_not_change_the_run(setting, tmp_path, capsys):
    """A warning appears once, at its first step, and gold at the chosen steps; a resumed run repeats both."""
    overrides = ["ppo.steps=4", "run.save_steps=2", "watch.kl=1e-9", "ppo.policy_learning_rate=0.05"]
    gold = "tests.integration.test_ppo_monitoring:gold"
    watched = [*overrides, f"data.heldout={setting.parent}/prompts.jsonl", f"watch.gold={gold}",
               "watch.every=2", "watch.show_samples_every=3", "ppo.log_samples_every=2"]  # fmt: skip
    train(recipe_of(setting, f"run.dir={tmp_path / 'plain'}", *overrides))
    capsys.readouterr()
    train(recipe_of(setting, f"run.dir={tmp_path / 'run'}", *watched))
    out = capsys.readouterr().out
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "run"))
    metrics = read(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in metrics if "heldout_gold" in row] == [1, 2, 4]
    assert metrics[1]["heldout_gold"] != metrics[3]["heldout_gold"]
    assert {"heldout_score", "heldout_gold_error", "heldout_seconds"} <= metrics[3].keys()
    assert {row["step"] for row in read(tmp_path / "run" / "rollouts.jsonl")} == {2, 4}
    assert out.count("two responses of step 3:\n  score ") == 1
    assert "two responses of step 2" not in out

    found = read(tmp_path / "run" / "warnings.jsonl")
    assert [(row["step"], row["warning"]) for row in found if row["warning"] == "kl_high"] == [(3, "kl_high")]
    assert "warning: kl_high at step 3: kl is " in out

    before = untimed(tmp_path / "run")
    for name in ("finished.json", "checkpoint-4/COMPLETE"):
        (tmp_path / "run" / name).unlink()
    train(recipe_of(setting, f"run.dir={tmp_path / 'run'}", *watched))
    assert read(tmp_path / "run" / "warnings.jsonl") == found
    assert untimed(tmp_path / "run") == before


def test_watch_gold_without_held_out_prompts_is_refused(setting):
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, "watch.gold=a:b")
    assert str(error.value) == "watch.gold is a:b, but there are no held-out prompts; give data.heldout"


def test_the_console_table_shows_a_head_rows_at_intervals_and_the_last_step(capsys, monkeypatch):
    monkeypatch.setattr("engine.run.console.LINE_INTERVAL_SECONDS", -1.0)
    steps = Steps("ppo", 3)
    steps.row(1, {"score": 1.23456, "learn_seconds": 2.0})
    monkeypatch.setattr("engine.run.console.LINE_INTERVAL_SECONDS", 99.0)
    steps.row(2, {"score": -1.0, "learn_seconds": 2.0})
    steps.row(3, {"score": "none ended", "learn_seconds": 20.0})
    assert capsys.readouterr().out == (
        "         ppo      score    learn s\n"
        "         1/3      1.235          2\n"
        "         3/3 none ended         20\n"
    )  # fmt: skip


def test_rollouts_are_shown_with_score_kl_and_a_shortened_prompt():
    prompt = "x" * 400 + "\nWho?\n"
    text = as_text([RolloutRecord(1, record={}, prompt=prompt, response="Me.<|im_end|>", score=1.234, kl=-0.5)])
    assert text.startswith("  score 1.23, kl -0.5\n  | … xxx")
    assert text.endswith("x\n  | Who?\n  | Me.<|im_end|>")
