"""The four models as they are loaded: what they have in common at the start, and what is refused."""

import pytest
import torch
from accelerate import Accelerator

from engine.errors import RunError
from engine.forward.responses import response_logprobs
from engine.models.loading import load_causal
from engine.models.tokenizer import load_tokenizer
from ppo.models import load_models, refuse_not_finite_weights
from ppo.shared_base import common_base
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.small_models import small_model

PROMPTS, ANSWERS = [[5, 6, 7], [8, 9]], [[10, 11, 12, 13, 14], [15, 16, 17]]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def logprobs(setting, *overrides):
    """log π of policy and reference as a step computes them, and the reference."""
    recipe = recipe_of(setting, *overrides)
    precision = "bf16" if recipe.model.dtype == "bfloat16" else "no"
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    models = load_models(recipe, load_tokenizer(recipe.model.path), accelerator)
    old = response_logprobs(models.policy, PROMPTS, ANSWERS, 1.0, 100).logprobs
    with models.frozen_on_device(), models.as_policy():
        return old, response_logprobs(models.reference, PROMPTS, ANSWERS, 1.0, 100).logprobs, models.reference


def test_offloaded_models_leave_the_device_after_an_error(setting, monkeypatch):
    recipe = recipe_of(setting, "ppo.offload_frozen=true")
    models = load_models(recipe, load_tokenizer(recipe.model.path), Accelerator(cpu=True))
    assert models.offloaded
    moved = []
    for frozen in models.offloaded:
        monkeypatch.setattr(frozen, "to", moved.append)
    with pytest.raises(ValueError, match="nothing"), models.frozen_on_device():
        raise ValueError("nothing")
    there, back = moved[: len(models.offloaded)], moved[len(models.offloaded) :]
    assert (there, back) == ([models.device] * len(there), ["cpu"] * len(there))


@pytest.mark.parametrize("overrides", [[], ["ppo.offload_frozen=true"]], ids=["resident", "offloaded"])
def test_in_bfloat16_policy_and_reference_agree_to_the_last_bit(setting, overrides):
    """Weights that are no bfloat16 numbers, as trained ones: the reference rounds where autocast does alone."""
    recipe = recipe_of(setting)
    policy = load_causal(recipe.model.path, recipe.model, load_tokenizer(recipe.model.path), trained=False)
    exact = response_logprobs(policy, PROMPTS, ANSWERS, 1.0, 100).logprobs
    old, reference, model = logprobs(setting, "model.dtype=bfloat16", *overrides)
    assert torch.equal(old, reference)
    assert (old - exact).abs().max() > 1e-4  # it is bfloat16
    types = {name: weight.dtype for name, weight in model.named_parameters()}
    assert types["model.layers.0.mlp.down_proj.weight"] == torch.bfloat16
    assert types["model.embed_tokens.weight"] == types["model.norm.weight"] == torch.float32
    assert not any(weight.requires_grad for weight in model.parameters())


def test_in_float32_they_agree_too(setting):
    old, reference, model = logprobs(setting)
    assert torch.equal(old, reference)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_policy_with_a_weight_that_is_no_number_is_refused():
    model = small_model()
    refuse_not_finite_weights(model, "x")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = torch.nan
    with pytest.raises(RunError) as error:
        refuse_not_finite_weights(model, "runs/sft/model")
    assert str(error.value) == (
        "model.path=runs/sft/model: model.layers.1.mlp.up_proj.weight has values that are not finite (NaN); "
        "take another checkpoint"
    )


class NamesABase:
    """As much of an adapter as says which base it is of."""

    def __init__(self, base, is_scalar):
        self.config, self.is_scalar = {"base_model_name_or_path": str(base)}, is_scalar


def test_one_folder_under_several_names_is_one_base(setting, tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(setting)
    for name in ("base/", f"{tmp_path}/base", "./base", "link", "../" + tmp_path.name + "/base"):
        assert common_base(NamesABase("base", False), [NamesABase(name, True)], recipe) == "base"
    assert common_base(NamesABase("owner/name", False), [NamesABase("owner/name", True)], recipe) == "owner/name"
    with pytest.raises(RunError) as error:
        common_base(NamesABase("base/", False), [NamesABase("owner/name", True)], recipe)
    assert str(error.value) == (
        "models=shared: the adapters of model.path and reward.path name different bases, "
        f"{tmp_path}/base, owner/name; train them from the same base, or set models=full"
    )
