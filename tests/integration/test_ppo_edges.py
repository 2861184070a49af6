"""What PPO refuses before its first step, each with advice that works; and a run of which no answer ends."""

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


def refused(run, setting, *overrides):
    """The message with which a run ends before its first step."""
    with pytest.raises(RunError) as error:
        train(recipe_of(setting, f"run.dir={run}", *overrides))
    assert read(run / "metrics.jsonl") == []
    return str(error.value)


def changed_config(folder, to, **changes):
    """A copy of a model with other values in its configuration."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | changes))
    return to


def test_prompt_and_response_beyond_the_context(setting, tmp_path):
    """Prompts have up to 18 tokens, responses 12; these positions depend on the batch beyond 24."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = changed_config(
        setting.parent / "policy", tmp_path / "short", max_position_embeddings=24, rope_parameters=rope
    )
    overrides = [f"model.path={model}", "ppo.steps=1", "data.pretrain_length=16"]
    assert refused(tmp_path / "run", setting, *overrides) == (
        "the longest prompt of data.prompts with sampling.max_new_tokens=12 has 30 tokens, and beyond 24 the model's "
        "positions (rope_type dynamic) depend on the longest sequence in the batch; lower data.max_prompt_tokens or "
        "sampling.max_new_tokens, together to 24"
    )
    train(recipe_of(setting, f"run.dir={tmp_path / 'advised'}", *overrides, "sampling.max_new_tokens=6",
                    "data.max_prompt_tokens=18"))  # fmt: skip


def test_held_out_prompts_and_pretraining_text_beyond_the_context(setting, tmp_path):
    """Learned positions, of which there are 32; the configuration alone is read."""
    long = write_jsonl(tmp_path / "long.jsonl", [{"prompt": "the quick brown fox " * 4, "response": "Hi"}])
    model = shutil.copytree(setting.parent / "policy", tmp_path / "gpt2")
    GPT2Config(n_positions=32).save_pretrained(model)
    overrides = [f"model.path={model}", "data.max_prompt_tokens=256"]
    held = refused(tmp_path / "one", setting, *overrides, f"data.heldout={long}")
    assert held.startswith("the longest prompt of data.heldout with sampling.max_new_tokens=12 has ")
    assert held.endswith(
        " tokens, and the model has positions for 32; lower data.max_prompt_tokens or sampling.max_new_tokens, "
        "together to 32"
    )
    texts = write_jsonl(tmp_path / "texts.jsonl", [{"text": "the quick brown fox " * 20}])
    overrides += [f"data.pretrain={texts}", "data.pretrain_length=64"]
    assert refused(tmp_path / "two", setting, *overrides).endswith(
        " tokens, and the model has positions for 32; set data.pretrain_length=32"
    )


def test_a_reward_model_with_another_vocabulary(setting, tmp_path):
    other = shutil.copytree(setting.parent / "reward", tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    message = refused(tmp_path / "run", setting, f"reward.path={other}")
    assert message.startswith(f"reward.path={other} reads other tokens than {setting.parent}/policy: of ")
    assert not (tmp_path / "run" / "data.json").exists()  # before any work


def gold_of_the_answer_alone(answer):
    return {"gold": 1.0}


def test_gold_that_takes_other_arguments(setting, tmp_path):
    gold = "tests.integration.test_ppo_edges:gold_of_the_answer_alone"
    overrides = [f"data.heldout={setting.parent}/prompts.jsonl", f"watch.gold={gold}"]
    assert refused(tmp_path / "run", setting, *overrides) == (
        f"watch.gold={gold} is gold_of_the_answer_alone(answer), but is called with (record, answer): too many "
        "positional arguments; write def gold_of_the_answer_alone(record, answer)"
    )


def test_a_policy_with_weights_that_are_no_numbers(setting, tmp_path):
    model = shutil.copytree(setting.parent / "policy", tmp_path / "spoilt")
    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    message = refused(tmp_path / "run", setting, f"model.path={model}")
    assert message == f"{model}: the model's outputs are NaN, so its weights are not finite; take another checkpoint"
    assert "\n" not in message


def test_a_run_of_which_no_answer_ends(setting, tmp_path, capsys, monkeypatch):
    """The end token's row is 0, so that at two tokens an answer it is not drawn here."""
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
