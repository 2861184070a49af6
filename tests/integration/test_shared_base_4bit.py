"""models=shared on a base in 4 bits, compared with peft, in a step and a run; needs bitsandbytes."""

import json
import math
import subprocess

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from config import RecipeError
from config.sections import Model
from engine.errors import RunError
from engine.files.jsonl import read
from engine.forward.responses import pack_responses, response_logprobs, response_values, sequence_scores
from engine.models.four_bits import four_bit_arguments
from engine.models.loading import load_causal, load_scalar
from engine.models.tokenizer import load_tokenizer
from ppo.shared_base import load_shared
from ppo.train import train
from tests.integration.test_four_bits import installed, needs_bitsandbytes
from tests.support.ppo_setting import make_adapters, make_setting, recipe_of
from tests.support.processes import run_stage
from tests.support.stage_runs import assert_metrics_close, command, same, untimed

PROMPTS, ANSWERS = [[5, 6, 7], [8, 9, 10, 11]], [[12, 13], [14, 15, 16]]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Make a PPO setting wide enough for blocks of 64 weights, with policy and reward model as adapters of one base."""
    folder = tmp_path_factory.mktemp("setting")
    recipe = make_setting(folder, hidden_size=64, intermediate_size=128)
    make_adapters(folder)
    return recipe


def overrides_of(setting):
    folder = setting.parent
    return [f"model.path={folder}/sft", f"reward.path={folder}/rm", "models=shared", "ppo.load_in_4bit=true"]


def in_4bit(setting, *overrides):
    return recipe_of(setting, *overrides_of(setting), *overrides)


def test_full_models_in_4_bits_are_refused(setting):
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, "ppo.load_in_4bit=true")
    assert str(error.value) == (
        "ppo.load_in_4bit=true stores weights that cannot be trained, but models=full trains all weights; set "
        "models=shared, or ppo.load_in_4bit=false"
    )


@pytest.mark.skipif(installed, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_error_has_the_install_command(setting, tmp_path):
    with pytest.raises(RunError) as error:
        train(in_4bit(setting, f"run.dir={tmp_path}"))
    text = str(error.value)
    assert text.startswith("load_in_4bit=true: ")
    assert text.endswith("; install it with .venv/bin/pip install bitsandbytes, or leave load_in_4bit out")


def load_with_peft(setting, adapter, model_class, **changes):
    """Load an adapter with peft on transformers' model in 4 bits, with float32 activations."""
    base = model_class.from_pretrained(
        setting.parent / "policy", dtype=torch.float32, **four_bit_arguments(Model(path="")), **changes
    )
    for module in base.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False
    return PeftModel.from_pretrained(base, setting.parent / adapter, is_trainable=True).eval()


@needs_bitsandbytes
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
def test_each_role_computes_like_pefts_adapter_on_the_same_base(setting, checkpointing):
    """Log-probabilities, values and scores, and the gradients of the adapters."""
    recipe = in_4bit(setting, f"ppo.gradient_checkpointing={checkpointing}")
    models = load_shared(recipe, load_tokenizer(recipe.model.path), Accelerator(cpu=True))
    kinds = [type(layer.base).__name__ for layer in models.policy.base.modules() if hasattr(layer, "added")]
    assert kinds == ["Linear4bit"] * 2 * 7
    theirs = load_with_peft(setting, "sft", AutoModelForCausalLM)

    def expected_logprobs():
        rows = []
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True):
            logits = theirs(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float()
            rows.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0])
        return torch.cat(rows)

    for role in (models.policy, models.reference):
        found = response_logprobs(role, PROMPTS, ANSWERS, 1.0, 100).logprobs
        assert_close(found, expected_logprobs().detach(), atol=1e-4, rtol=0)

    row = pack_responses(PROMPTS, ANSWERS, torch.device("cpu"))
    with models.policy.roles.activate("value"):  # recomputation must still use the policy's adapter
        loss = models.policy(**row.logprob_arguments).logprobs.sum()
        loss.backward()
    expected_logprobs().sum().backward()
    gradients = {name.removeprefix("base_model.model.").replace(".default", ""): weights.grad
                 for name, weights in theirs.named_parameters() if weights.requires_grad}  # fmt: skip
    ours = {key.replace("/", "."): weights.grad for key, weights in models.policy.own.items()}
    compared = [name for name in ours if "lora_" in name]
    assert len(compared) == 2 * 2 * 7
    for name in compared:
        assert_close(ours[name], gradients[name], atol=1e-4, rtol=1e-4)

    scalar = load_with_peft(setting, "rm", AutoModelForSequenceClassification, num_labels=1)
    bare, offset = scalar.base_model.model, models.value.config.score_offset
    sequences = [[*p, *a] for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    with torch.no_grad():
        hidden = [bare.model(torch.tensor([sequence])).last_hidden_state[0] for sequence in sequences]
        values = [bare.score(h).float()[:, 0] - offset for h in hidden]
    before = torch.cat([v[len(p) - 1 : -1] for v, p in zip(values, PROMPTS, strict=True)])
    assert_close(response_values(models.value, PROMPTS, ANSWERS, 100), before, atol=1e-4, rtol=0)
    (reward_role,) = models.rewards[0].scorer.models
    assert_close(sequence_scores(reward_role, sequences, 100), torch.stack([v[-1] for v in values]), atol=1e-4, rtol=0)


@needs_bitsandbytes
def test_a_run_starts_with_kl_0_trains_all_adapters_and_resumes(setting, tmp_path):
    keep = ["run.save_steps=1", "run.keep_checkpoints=9"]
    one, two = tmp_path / "one", tmp_path / "two"
    train(in_4bit(setting, f"run.dir={one}", *keep))
    train(in_4bit(setting, f"run.dir={two}", *keep, "ppo.gradient_checkpointing=true"))
    assert_metrics_close(one, two)
    rows = read(one / "metrics.jsonl")
    losses = [row[name] for row in rows for name in ("policy_loss", "value_loss", "pretrain_loss") if name in row]
    assert len(losses) == 3 + 2 + 2  # the policy is not trained in the first step
    assert all(map(math.isfinite, losses))
    assert [row["kl"] == 0 for row in rows] == [True, True, False]
    assert [row["first_ratio_error"] for row in rows[1:]] == [0, 0]

    folders = (setting.parent / "sft", one / "model")
    start, finished = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    assert start.keys() == finished.keys()
    assert not any(torch.equal(start[name], finished[name]) for name in start)
    base = json.loads((one / "model" / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(setting.parent / "policy")
    section = Model(path=str(one / "model"))
    tokenizer = load_tokenizer(section.path)
    load_causal(section.path, section, tokenizer, trained=False)
    load_scalar(str(one / "value"), section, tokenizer, trained=False)

    expected = untimed(one)
    for name in ("finished.json", "checkpoint-3/COMPLETE", "checkpoint-2/COMPLETE"):
        (one / name).unlink()
    train(in_4bit(setting, f"run.dir={one}", *keep))
    assert untimed(one) == expected
    assert same(load_file(one / "model" / "adapter_model.safetensors"), finished)


@needs_bitsandbytes
def test_weights_not_in_4_bits_are_bfloat16_under_model_dtype_bfloat16(setting, tmp_path):
    overrides = [*overrides_of(setting), "model.dtype=bfloat16", f"run.dir={tmp_path}"]
    recipe = recipe_of(setting, *overrides)
    models = load_shared(recipe, load_tokenizer(recipe.model.path), Accelerator(cpu=True))
    dtypes = {weights.dtype for weights in models.policy.base.parameters()}
    assert dtypes == {torch.bfloat16, torch.uint8}
    # In a process of its own, since accelerate has one precision per process.
    subprocess.run(command("ppo", setting, *overrides), check=True, capture_output=True)
    assert [row["kl"] == 0 for row in read(tmp_path / "metrics.jsonl")] == [True, True, False]


@needs_bitsandbytes
def test_a_run_on_two_ranks_equals_one_on_a_single_process(setting, tmp_path):
    changes = ["ppo.micro_batch_tokens=40", "ppo.policy_learning_rate=1e-3", "ppo.value_learning_rate=1e-3"]
    train(in_4bit(setting, f"run.dir={tmp_path / 'one'}", *changes))
    run_stage("ppo", setting, f"run.dir={tmp_path / 'two'}", *overrides_of(setting), *changes)
    assert_metrics_close(tmp_path / "one", tmp_path / "two")
