"""The four models after loading: equality of policy and reference, offloading, and errors."""

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
    """Return the log-probabilities of policy and reference as a step computes them, and the reference model."""
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
    devices = []
    for frozen in models.offloaded:
        monkeypatch.setattr(frozen, "to", devices.append)
    with pytest.raises(ValueError, match="nothing"), models.frozen_on_device():
        raise ValueError("nothing")
    to_device, to_cpu = devices[: len(models.offloaded)], devices[len(models.offloaded) :]
    assert (to_device, to_cpu) == ([models.device] * len(to_device), ["cpu"] * len(to_device))


@pytest.mark.parametrize("overrides", [[], ["ppo.offload_frozen=true"]], ids=["resident", "offloaded"])
def test_policy_and_reference_are_bit_identical_in_bfloat16(setting, overrides):
    """The weights are not bfloat16 numbers; the reference must round them only where autocast does."""
    recipe = recipe_of(setting)
    policy = load_causal(recipe.model.path, recipe.model, load_tokenizer(recipe.model.path), trained=False)
    in_float32 = response_logprobs(policy, PROMPTS, ANSWERS, 1.0, 100).logprobs
    old, reference, model = logprobs(setting, "model.dtype=bfloat16", *overrides)
    assert torch.equal(old, reference)
    assert (old - in_float32).abs().max() > 1e-4  # it does compute in bfloat16
    types = {name: weight.dtype for name, weight in model.named_parameters()}
    assert types["model.layers.0.mlp.down_proj.weight"] == torch.bfloat16
    assert types["model.embed_tokens.weight"] == types["model.norm.weight"] == torch.float32
    assert not any(weight.requires_grad for weight in model.parameters())


def test_policy_and_reference_are_bit_identical_in_float32(setting):
    old, reference, model = logprobs(setting)
    assert torch.equal(old, reference)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_policy_with_nan_weights_is_refused():
    model = small_model()
    refuse_not_finite_weights(model, "x")
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = torch.nan
    with pytest.raises(RunError) as error:
        refuse_not_finite_weights(model, "runs/sft/model")
    assert str(error.value) == (
        "model.path=runs/sft/model: model.layers.1.mlp.up_proj.weight has values that are not finite (NaN); "
        "take another checkpoint"
    )


class AdapterStub:
    """The part of an adapter that names its base."""

    def __init__(self, base, is_scalar):
        self.config, self.is_scalar = {"base_model_name_or_path": str(base)}, is_scalar


def test_different_paths_of_one_folder_are_the_same_base(setting, tmp_path, monkeypatch):
    (tmp_path / "base").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(setting)
    for name in ("base/", f"{tmp_path}/base", "./base", "link", "../" + tmp_path.name + "/base"):
        assert common_base(AdapterStub("base", False), [AdapterStub(name, True)], recipe) == "base"
    assert common_base(AdapterStub("owner/name", False), [AdapterStub("owner/name", True)], recipe) == "owner/name"
    with pytest.raises(RunError) as error:
        common_base(AdapterStub("base/", False), [AdapterStub("owner/name", True)], recipe)
    assert str(error.value) == (
        "models=shared: the adapters of model.path and reward.path name different bases, "
        f"{tmp_path}/base, owner/name; train them from the same base, or set models=full"
    )
