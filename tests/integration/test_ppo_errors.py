"""Errors of PPO before its first step, whose advice works, and a run in which no response ends."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config

from engine.errors import RunError
from engine.files.jsonl import read
from ppo.train import train
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import write_jsonl


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def refusal(run, setting, *overrides):
    """Return the error message of a run that ends before its first step."""
    with pytest.raises(RunError) as error:
        train(recipe_of(setting, f"run.dir={run}", *overrides))
    assert read(run / "metrics.jsonl") == []
    return str(error.value)


def changed_config(folder, to, **changes):
    """Copy a model with other values in its configuration."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | changes))
    return to


def test_prompt_and_response_longer_than_the_context_are_refused(setting, tmp_path):
    """Prompts have up to 18 tokens, responses 12; beyond 24 dynamic RoPE depends on the batch."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = changed_config(
        setting.parent / "policy", tmp_path / "short", max_position_embeddings=24, rope_parameters=rope
    )
    overrides = [f"model.path={model}", "ppo.steps=1", "data.pretrain_length=16"]
    assert refusal(tmp_path / "run", setting, *overrides) == (
        "the longest prompt of data.prompts with sampling.max_new_tokens=12 has 30 tokens, and beyond 24 the model's "
        "positions (rope_type dynamic) depend on the longest sequence in the batch; lower data.max_prompt_tokens or "
        "sampling.max_new_tokens, together to 24"
    )
    train(recipe_of(setting, f"run.dir={tmp_path / 'advised'}", *overrides, "sampling.max_new_tokens=6",
                    "data.max_prompt_tokens=18"))  # fmt: skip


def test_held_out_prompts_and_pretraining_text_beyond_the_context_are_refused(setting, tmp_path):
    """32 learned positions; only the configuration is read."""
    long = write_jsonl(tmp_path / "long.jsonl", [{"prompt": "the quick brown fox " * 4, "response": "Hi"}])
    model = shutil.copytree(setting.parent / "policy", tmp_path / "gpt2")
    GPT2Config(n_positions=32).save_pretrained(model)
    overrides = [f"model.path={model}", "data.max_prompt_tokens=256"]
    heldout_message = refusal(tmp_path / "one", setting, *overrides, f"data.heldout={long}")
    assert heldout_message.startswith("the longest prompt of data.heldout with sampling.max_new_tokens=12 has ")
    assert heldout_message.endswith(
        " tokens, and the model has positions for 32; lower data.max_prompt_tokens or sampling.max_new_tokens, "
        "together to 32"
    )
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": "the quick brown fox " * 20}])
    overrides += [f"data.pretrain={texts}", "data.pretrain_length=64"]
    assert refusal(tmp_path / "two", setting, *overrides).endswith(
        " tokens, and the model has positions for 32; set data.pretrain_length=32"
    )


def test_a_reward_model_with_another_vocabulary_is_refused(setting, tmp_path):
    other = shutil.copytree(setting.parent / "reward", tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = refusal(tmp_path / "run", setting, f"reward.path={other}")
    assert message.startswith(f"reward.path={other} has another vocabulary than {setting.parent}/policy: of ")
    assert not (tmp_path / "run" / "data.json").exists()  # before any work


def gold_of_the_answer_alone(answer):
    return {"gold": 1.0}


def test_a_gold_function_with_another_signature_is_refused(setting, tmp_path):
    gold = "tests.integration.test_ppo_errors:gold_of_the_answer_alone"
    overrides = [f"data.heldout={setting.parent}/prompts.jsonl", f"watch.gold={gold}"]
    assert refusal(tmp_path / "run", setting, *overrides) == (
        f"watch.gold={gold} is gold_of_the_answer_alone(answer), but is called with (record, answer): too many "
        "positional arguments; write def gold_of_the_answer_alone(record, answer)"
    )


def test_a_policy_with_nan_weights_is_refused(setting, tmp_path):
    model = shutil.copytree(setting.parent / "policy", tmp_path / "spoilt")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    message = refusal(tmp_path / "run", setting, f"model.path={model}")
    assert message == f"{model}: the model's outputs are NaN, so its weights are not finite; take another checkpoint"
    assert "\n" not in message


def test_a_run_in_which_no_response_ends_warns_once(setting, tmp_path, capsys, monkeypatch):
    """The end token's output row is 0, so that it is not drawn within two tokens."""
    monkeypatch.setattr("engine.run.console.LINE_INTERVAL_SECONDS", -1.0)
    model = shutil.copytree(setting.parent / "policy", tmp_path / "endless")
    weights = load_file(model / "model.safetensors")
    end = json.loads((setting.parent / "reward" / "config.json").read_text())["score_token_id"]
    weights["lm_head.weight"][end] = 0
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    train(recipe_of(setting, f"run.dir={tmp_path / 'run'}", f"model.path={model}", "sampling.max_new_tokens=2",
                    "ppo.steps=2"))  # fmt: skip
    rows = read(tmp_path / "run" / "metrics.jsonl")
    assert [(row["score"], row["without_end"], row["normalised_score"]) for row in rows] == [(None, 1.0, -1.0)] * 2
    text = "no response has ended, so none has a score: the policy is trained on penalties only; see docs/ppo.md"
    warnings = [row for row in read(tmp_path / "run" / "warnings.jsonl") if row["warning"] == "none_ended"]
    assert warnings == [{"step": 1, "warning": "none_ended", "text": text}]
    out = capsys.readouterr().out
    assert out.count(f"warning: none_ended at step 1: {text}\n") == 1
    assert "         1/2 none ended " in out
