"""PPO runs through the entry point: value warm-up, metrics, kill and resume, error messages."""

import json
import subprocess

import pytest

from engine.files.jsonl import read
from ppo.train import train
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import command, run_and_kill, same, untimed, weights


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def test_the_policy_is_not_trained_during_value_warmup(setting, tmp_path):
    start = weights(setting.parent, "policy")
    for steps, trained in ((2, False), (3, True)):
        run = tmp_path / str(steps)
        train(recipe_of(setting, f"run.dir={run}", f"ppo.steps={steps}", "ppo.value_warmup_steps=2"))
        assert same(weights(run), start) != trained
        assert not same(weights(run, "value"), weights(setting.parent, "reward"))


def test_every_metric_is_logged_and_finite(setting, tmp_path):
    train(recipe_of(setting, f"run.dir={tmp_path}"))
    rows = read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    expected = {
        "score", "normalised_score", "running_mean", "kl", "entropy", "response_tokens", "without_end", "returns",
        "values", "explained_variance", "value_loss", "value_clip_fraction", "policy_loss", "ratio", "approx_kl",
        "policy_clip_fraction", "first_ratio_error", "pretrain_loss", "policy_grad_norm", "value_grad_norm",
        "tokens_per_second", "step_seconds", "sample_seconds", "score_seconds", "learn_seconds", "peak_memory",
    }  # fmt: skip
    assert expected <= rows[-1].keys()
    assert None not in rows[-1].values()
    assert rows[0]["kl"] == rows[1]["kl"] == 0  # the policy equals the reference until step 3
    assert rows[2]["kl"] != 0
    assert "policy_loss" not in rows[0]
    samples = read(tmp_path / "rollouts.jsonl")
    assert {row["step"] for row in samples} == {1, 2, 3}
    assert samples[0].keys() == {"step", "record", "prompt", "response", "score", "kl"}
    tokenizer, config, generation = (
        json.loads((tmp_path / "model" / f"{name}.json").read_text())
        for name in ("tokenizer_config", "config", "generation_config")
    )
    assert tokenizer["eos_token"] == "<|im_end|>"
    assert config["eos_token_id"] == generation["eos_token_id"][0]


@pytest.mark.parametrize("change", ["ppo.micro_batch_tokens=30", "sampling.batch_size=3"])
def test_batch_sizes_change_metrics_by_rounding_only(setting, tmp_path, change):
    train(recipe_of(setting, f"run.dir={tmp_path / 'one'}"))
    train(recipe_of(setting, f"run.dir={tmp_path / 'other'}", change))
    for a, b in zip(untimed(tmp_path / "one"), untimed(tmp_path / "other"), strict=True):
        assert a == pytest.approx(b, abs=2e-4, rel=1e-3)


def test_a_killed_run_resumes_and_ends_bit_for_bit(setting, tmp_path):
    """Six steps, killed with SIGKILL after step 4 and resumed from checkpoint-3."""
    long = ["ppo.steps=6", "ppo.value_warmup_steps=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(recipe_of(setting, f"run.dir={whole}", *long))

    run_and_kill(4, "ppo", setting, f"run.dir={killed}", *long)
    assert not (killed / "finished.json").exists()
    assert (killed / "checkpoint-3" / "COMPLETE").exists()

    again = subprocess.run(
        command("ppo", setting, f"run.dir={killed}", *long), capture_output=True, text=True, check=True
    )
    assert "continuing from checkpoint-3" in again.stdout
    assert untimed(killed) == untimed(whole)
    assert (killed / "rollouts.jsonl").read_text() == (whole / "rollouts.jsonl").read_text()
    for name in ("model", "value"):
        assert same(weights(killed, name), weights(whole, name))

    finished = subprocess.run(
        command("ppo", setting, f"run.dir={killed}", *long), capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip().endswith(f"{killed}: already finished; nothing to do")


def test_an_incomplete_checkpoint_is_not_resumed_from(setting, tmp_path):
    recipe = recipe_of(setting, f"run.dir={tmp_path}", "run.save_steps=1", "ppo.value_warmup_steps=0")
    train(recipe)
    expected = untimed(tmp_path)
    (tmp_path / "finished.json").unlink()
    (tmp_path / "checkpoint-3" / "COMPLETE").unlink()
    (tmp_path / "checkpoint-3" / "model.safetensors").write_bytes(b"half")
    train(recipe)
    assert untimed(tmp_path) == expected


def test_a_run_folder_of_another_recipe_is_refused_with_the_differing_keys(setting, tmp_path):
    train(recipe_of(setting, f"run.dir={tmp_path}", "ppo.steps=1"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    other = subprocess.run(
        command("ppo", setting, f"run.dir={tmp_path}", "ppo.steps=1", "ppo.kl_coef=0.5", "run.seed=3"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert other.returncode == 2
    assert other.stderr == (
        f"error: run.dir={tmp_path} contains a run of another recipe, which differs in ppo.kl_coef, run.seed; "
        f"name another run.dir, or move {tmp_path} away\n"
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(setting, tmp_path, monkeypatch):
    import ppo.update
    from engine.errors import RunError

    plain = ppo.update.clipped_policy_loss
    calls = iter(range(100))

    def nan_loss(*arguments):
        return plain(*arguments) * (float("nan") if next(calls) == 5 else 1.0)

    monkeypatch.setattr(ppo.update, "clipped_policy_loss", nan_loss)
    recipe = recipe_of(setting, f"run.dir={tmp_path}", "run.save_steps=1", "ppo.value_warmup_steps=0")
    with pytest.raises(RunError) as error:
        train(recipe)
    assert str(error.value) == (
        "the policy's gradient norm is nan; lower ppo.policy_learning_rate or look at the last rollouts in "
        "rollouts.jsonl (the last checkpoint is intact)"
    )
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert (tmp_path / "checkpoint-1" / "COMPLETE").exists()


def test_the_resolved_recipe_repeats_the_run(setting, tmp_path):
    train(recipe_of(setting, f"run.dir={tmp_path / 'one'}", "ppo.steps=2"))
    train(recipe_of(tmp_path / "one" / "recipe.yaml", f"run.dir={tmp_path / 'two'}"))
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
    assert json.loads((tmp_path / "one" / "finished.json").read_text())["steps"] == 2
