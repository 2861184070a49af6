"""models=shared: one base with adapters compared with full merged models, in a step and a run; memory at 7B."""

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, Qwen2Config

from config import RecipeError
from config.sections import Model
from engine.errors import RunError
from engine.files.jsonl import read
from engine.forward.responses import response_logprobs, response_values, sequence_scores
from engine.models.adapter_files import LORA_A, LORA_B, Adapter
from engine.models.loading import load_causal, load_scalar
from engine.models.multi_adapter import Role, Roles
from engine.models.tokenizer import load_tokenizer
from ppo.shared_base import load_shared
from ppo.train import train
from tests.support.ppo_setting import make_adapters, make_setting, recipe_of
from tests.support.stage_runs import assert_metrics_close, untimed

PROMPTS, ANSWERS = [[5, 6, 7], [8, 9, 10, 11]], [[12, 13], [14, 15, 16]]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def setting(request, tmp_path_factory):
    """Make a PPO setting whose policy and reward model are adapters of one base, with nonzero weights."""
    folder = tmp_path_factory.mktemp("setting")
    recipe = make_setting(folder)
    base = folder / "policy"
    if request.param:
        model = AutoModelForCausalLM.from_pretrained(base)
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(base)
    make_adapters(folder)
    return recipe


def paths(setting):
    return [f"model.path={setting.parent}/sft", f"reward.path={setting.parent}/rm"]


def test_each_role_computes_like_its_merged_model(setting):
    recipe = recipe_of(setting, *paths(setting), "models=shared")
    tokenizer = load_tokenizer(recipe.model.path)
    models = load_shared(recipe, tokenizer, Accelerator(cpu=True))
    causal = load_causal(recipe.model.path, recipe.model, tokenizer, trained=False)
    scalar = load_scalar(recipe.reward.path, recipe.model, tokenizer, trained=False)
    end = scalar.config.score_token_id

    expected = response_logprobs(causal, PROMPTS, ANSWERS, 1.0, 100)
    for role in (models.policy, models.reference):
        out = response_logprobs(role, PROMPTS, ANSWERS, 1.0, 100)
        assert_close(out.logprobs, expected.logprobs, atol=1e-4, rtol=0)
        assert_close(out.entropy, expected.entropy, atol=1e-4, rtol=0)
    values = response_values(scalar, PROMPTS, ANSWERS, 100)
    assert_close(response_values(models.value, PROMPTS, ANSWERS, 100), values, atol=1e-4, rtol=0)
    finished = [[*p, *a, end] for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    (scores,) = models.score(finished, [1] * 2, [{}] * 2, 100).values()
    assert_close(scores, sequence_scores(scalar, finished, 100), atol=1e-4, rtol=0)
    bare = load_causal(str(setting.parent / "policy"), recipe.model, tokenizer, trained=False)
    difference = response_logprobs(bare, PROMPTS, ANSWERS, 1.0, 100).logprobs - expected.logprobs
    assert difference.abs().max() > 0.01


def test_a_run_equals_one_with_four_full_models_until_the_first_update(setting, tmp_path):
    """Equal responses, scores, values and KL; after the update they differ, as only adapters are trained."""
    for name, models in (("shared", "shared"), ("full", "full")):
        train(recipe_of(setting, *paths(setting), f"models={models}", f"run.dir={tmp_path / name}", "ppo.steps=1"))
    one, other = untimed(tmp_path / "shared")[0], untimed(tmp_path / "full")[0]
    before = ("score", "kl", "entropy", "response_tokens", "without_end", "returns", "values", "explained_variance")
    for name in before:
        assert one[name] == pytest.approx(other[name], abs=1e-4), name


def test_a_run_saves_loadable_adapters_and_resumes_bit_for_bit(setting, tmp_path):
    overrides = [*paths(setting), "models=shared", "run.save_steps=1", "run.keep_checkpoints=9"]
    one, two = tmp_path / "one", tmp_path / "two"
    train(recipe_of(setting, f"run.dir={one}", *overrides))
    train(recipe_of(setting, f"run.dir={two}", *overrides, "ppo.gradient_checkpointing=true"))
    assert_metrics_close(one, two)
    rows = read(one / "metrics.jsonl")
    assert rows[2]["kl"] != 0
    assert max(row["first_ratio_error"] for row in rows if "first_ratio_error" in row) < 1e-4

    section = Model(path=str(one / "model"))
    tokenizer = load_tokenizer(section.path)
    assert tokenizer.eos_token == "<|im_end|>"
    ours = load_causal(section.path, section, tokenizer, trained=False)
    base = AutoModelForCausalLM.from_pretrained(setting.parent / "policy")
    theirs = PeftModel.from_pretrained(base, one / "model").eval()
    with torch.no_grad():
        ids = torch.tensor([[5, 6, 7, 8]])
        ours.set_attn_implementation("sdpa")
        assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-4, rtol=0)
    load_scalar(str(one / "value"), section, tokenizer, trained=False)

    expected = untimed(one)
    for name in ("finished.json", "checkpoint-3/COMPLETE", "checkpoint-2/COMPLETE"):
        (one / name).unlink()
    train(recipe_of(setting, f"run.dir={one}", *overrides))
    assert untimed(one) == expected


def test_stored_weights_are_at_most_15_percent_more_than_the_base(setting):
    """Qwen1.5-7B's shape on the meta device: base and two frozen adapters in bfloat16, two trained ones in float32."""
    config = Qwen2Config(
        vocab_size=151936, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=32, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    base_bytes = sum(p.numel() * p.element_size() for p in base.parameters())
    assert base_bytes == 2 * 7_721_324_544
    layers = {n: m for n, m in base.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"}
    tensors = {}
    for name, layer in layers.items():
        tensors[name + LORA_A] = torch.empty(64, layer.in_features, device="meta")
        tensors[name + LORA_B] = torch.empty(layer.out_features, 64, device="meta")
    roles, adapter = Roles(), Adapter({"r": 64, "lora_alpha": 16}, tensors, None)
    for name, dtype in (("policy", torch.float32), ("value", torch.float32), ("reference", None), ("reward", None)):
        Role(base, roles, name, adapter, dtype or torch.bfloat16, trained=dtype is not None)
    stored = {id(t): t for m in base.modules() for t in m.parameters(recurse=False)}
    for module in base.modules():
        for added in getattr(module, "added", {}).values():
            stored |= {id(added.down): added.down, id(added.up): added.up}
    total = sum(t.numel() * t.element_size() for t in stored.values())
    assert 1.12 < total / base_bytes < 1.15


def test_full_models_and_wrong_adapters_are_refused(setting, tmp_path):
    folder = setting.parent
    for overrides, message in (
        (
            [f"model.path={folder}/policy", f"reward.path={folder}/rm"],
            f"model.path={folder}/policy is a whole model, but models=shared needs adapters of one base; train with "
            "lora.r=64 lora.merge=false, or set models=full",
        ),
        (
            [f"model.path={folder}/rm", f"reward.path={folder}/rm"],
            f"models=shared: model.path={folder}/rm must be an SFT adapter and reward.path={folder}/rm "
            "a reward model's",
        ),
    ):
        with pytest.raises(RunError) as error:
            train(recipe_of(setting, *overrides, "models=shared", f"run.dir={tmp_path / str(len(message))}"))
        assert str(error.value) == message


def test_engines_that_need_a_full_model_are_refused(setting):
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, "models=shared", "sampling.engine=transformers")
    assert str(error.value) == (
        "sampling.engine=transformers needs a full model, but under models=shared the policy is an adapter; "
        "use sampling.engine=own or compiled"
    )


def test_offload_frozen_is_refused_for_a_shared_base_and_changes_no_metric_of_full_models(setting, tmp_path):
    with pytest.raises(RecipeError, match=r"^ppo.offload_frozen offloads full models, but models=shared has none"):
        recipe_of(setting, "models=shared", "ppo.offload_frozen=true")
    moved = []
    plain = torch.nn.Module.to

    def to(module, *args, **kwargs):
        moved.append(args)
        return plain(module, *args, **kwargs)

    train(recipe_of(setting, f"run.dir={tmp_path / 'one'}", "ppo.steps=1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "to", to)
        train(recipe_of(setting, f"run.dir={tmp_path / 'two'}", "ppo.steps=1", "ppo.offload_frozen=true"))
    assert moved[-4:] == [(torch.device("cpu"),)] * 2 + [("cpu",)] * 2  # reference and reward model: there and back
    assert untimed(tmp_path / "one") == untimed(tmp_path / "two")
