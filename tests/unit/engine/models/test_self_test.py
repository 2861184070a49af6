"""The self-test at load: what it detects, its messages, that its advice works, and that it changes nothing."""

import copy
import math
import re
from dataclasses import replace

import pytest
import torch
from transformers import (
    AutoConfig,
    BertConfig,
    BertLMHeadModel,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    StableLmConfig,
    StableLmForCausalLM,
)

from config import load
from config.sections import Model
from engine.compat import attention_of, new_model
from engine.errors import RunError
from engine.forward.attention import use_attention
from engine.forward.logprobs import with_logprobs
from engine.forward.scalar_head import scalar_class
from engine.models import self_test as module
from engine.models.loading import load_causal, load_scalar, new_scalar
from engine.models.saving import save_model
from engine.models.self_test import failure_of, self_test
from ppo.recipe import PPO
from reward.recipe import Reward
from tests.support.small_models import FAMILIES, SIZES, small_config
from tests.support.tokenizers import qwen

MODEL = Model(path="")
PADDING = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(autouse=True)
def forget_passed_tests(monkeypatch):
    monkeypatch.setattr(module, "_passed", set())


@pytest.fixture
def write_model(tmp_path):
    """Return a function that writes a random model into a folder and returns the folder."""

    def write(model_class, config, **saved):
        torch.manual_seed(0)
        model_class(config).save_pretrained(tmp_path / "base", **saved)
        qwen().save_pretrained(tmp_path / "base")
        return str(tmp_path / "base")

    return write


def sizes(**changes):
    return {**SIZES, "vocab_size": len(qwen()), **PADDING, **changes}


def refusal(path, model=MODEL):
    with pytest.raises(RunError) as error:
        load_causal(path, model, qwen(), trained=True)
    assert "\n" not in str(error.value)
    return str(error.value)


def random_model(family="qwen2", **changes):
    torch.manual_seed(0)
    return with_logprobs(FAMILIES[family][1])(small_config(family, attn_implementation="packed", **changes))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "frozen", "scalar"])
def test_families_of_the_recipes_pass_in_every_dtype_and_mode(family, kind):
    torch.manual_seed(0)
    config = small_config(family, num_labels=1, score_offset=0.5, score_token_id=1, attn_implementation="packed")
    model = (scalar_class(config) if kind == "scalar" else with_logprobs(FAMILIES[family][1]))(config)
    model = model.to(torch.bfloat16) if kind in ("bfloat16", "frozen") else model
    for attention in ("packed", "sdpa", "eager"):
        assert failure_of(model.eval() if kind == "frozen" else model.train(), attention) is None


def test_nan_outputs_fail():
    model = random_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.fill_(float("nan"))
    assert math.isnan(failure_of(model.eval(), "packed").difference)


def test_a_state_carried_between_sequences_is_refused_with_figure_and_reason(write_model):
    path = write_model(Lfm2ForCausalLM, Lfm2Config(**sizes(layer_types=["conv", "full_attention"])))
    message = refusal(path)
    found = float(message.removeprefix(f"{path}: a sequence packed beside another differs by ").split(" ")[0])
    assert found > 0.1
    assert message.endswith(
        " under model.attention=packed, likely because of a state that is carried from token to token (convolution or "
        "recurrence); plumbline cannot train lfm2 models, use a base of another family (docs/models.md)"
    )


def test_an_untrained_model_is_tested_as_sensitively_as_a_trained_one():
    """Its convolutions change a log-probability by less than 1e-3 now, but by more once it is trained."""
    torch.manual_seed(0)
    config = Lfm2Config(**sizes(layer_types=["conv", "full_attention"], initializer_range=1e-3))
    model = new_model(with_logprobs(Lfm2ForCausalLM), config, attn_implementation="packed")
    assert failure_of(model, "packed").difference > 0.1


STABLELM = StableLmConfig(**sizes())
GPTJ = GPTJConfig(vocab_size=len(qwen()), n_positions=64, n_embd=32, n_layer=2, n_head=4, rotary_dim=8, **PADDING)


@pytest.mark.parametrize(
    ("model_class", "config", "found", "other"),
    [
        (StableLmForCausalLM, STABLELM, "a sequence alone fails (ValueError: packed attention was", "sdpa"),
        (GPTJForCausalLM, GPTJ, "GPTJForCausalLM cannot be built under model.attention=packed (KeyError: ", "eager"),
    ],
)
def test_the_advice_names_another_attention_that_works(write_model, model_class, config, found, other):
    path = write_model(model_class, config)
    message = refusal(path)
    assert message.startswith(f"{path}: {found}")
    assert message.endswith(f"; set model.attention={other}")
    load_causal(path, replace(MODEL, attention=other), qwen(), trained=True)


def test_the_advice_for_a_reward_model_works_in_reward_and_ppo(write_model, tmp_path):
    path = write_model(StableLmForCausalLM, STABLELM)
    reward = str(tmp_path / "reward")
    tokenizer = qwen()
    model = new_scalar(path, replace(MODEL, attention="sdpa"), tokenizer, seed=1)
    save_model(model, tokenizer, tmp_path / "reward")
    with pytest.raises(RunError) as error:
        load_scalar(reward, MODEL, tokenizer, trained=False)
    advice = re.fullmatch(r".*; set (\S+) \(to train a reward model also (\S+)\)", str(error.value)).groups()
    assert advice == ("model.attention=sdpa", "reward.share_prompts=false")
    load_scalar(reward, replace(MODEL, attention="sdpa"), tokenizer, trained=False)
    (tmp_path / "rm.yaml").write_text("stage: reward\nmodel: {path: m}\ndata: {train: t}\nrun: {dir: r}\n")
    assert load(Reward, tmp_path / "rm.yaml", advice).model.attention == "sdpa"
    (tmp_path / "ppo.yaml").write_text(
        "stage: ppo\nmodel: {path: m}\nreward: {path: r}\ndata: {prompts: p, pretrain: t}\nppo: {steps: 100}\n"
        "run: {dir: r}\n"
    )
    assert load(PPO, tmp_path / "ppo.yaml", advice[:1]).model.attention == "sdpa"


@pytest.mark.parametrize(
    ("model_class", "config", "reason"),
    [
        (BloomForCausalLM, BloomConfig(vocab_size=430, hidden_size=32, n_layer=2, n_head=4, **PADDING), "ALiBi"),
        (GptOssForCausalLM, GptOssConfig(**sizes(head_dim=8, num_local_experts=4, num_experts_per_tok=2)), "sinks"),
    ],
)
def test_alibi_and_attention_sinks_are_refused_under_packed_attention(write_model, model_class, config, reason):
    message = refusal(write_model(model_class, config))
    assert reason in message
    assert message.endswith("use a base of another family (docs/models.md)")


def test_a_biased_head_passes_only_if_its_bias_is_used(monkeypatch):
    torch.manual_seed(0)
    model = new_model(with_logprobs(PhiForCausalLM), PhiConfig(**sizes()), attn_implementation="packed")
    assert failure_of(model, "packed") is None
    own = module.packed_outputs

    def without_bias(twin, sequences):
        bias, twin.lm_head.bias = twin.lm_head.bias, None
        try:
            return own(twin, sequences)
        finally:
            twin.lm_head.bias = bias

    monkeypatch.setattr(module, "packed_outputs", without_bias)
    assert failure_of(model, "packed").what == "alone"


def test_noise_under_an_unknown_name_is_detected(monkeypatch):
    model = random_model()

    def noisy(layer, inputs, output):
        return output + 0.1 * torch.randn_like(output) if layer.training else output

    model.model.layers[1].mlp.register_forward_hook(noisy)
    assert failure_of(model.eval(), "packed") is None
    assert failure_of(model.train(), "packed").what in ("alone", "repeated")


def test_the_self_test_does_not_change_random_state_weights_or_mode():
    model = random_model().train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    self_test(model, "there")
    handle = model.model.layers[0].mlp.register_forward_hook(lambda *inputs: inputs[-1] + torch.rand(1))
    assert failure_of(model, "packed") is not None
    handle.remove()
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert attention_of(model) == "packed"
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_each_configuration_mode_and_attention_is_tested_once_per_process(monkeypatch):
    tested = []
    monkeypatch.setattr(module, "failure_of", lambda model, attention: tested.append((model.training, attention)))
    model = random_model()
    for training in (True, True, False, False):
        self_test(model.train(training), "there")
    with use_attention(model, "sdpa"):
        self_test(model, "there")
    self_test(random_model(num_hidden_layers=1).eval(), "there")
    assert tested == [(True, "packed"), (False, "packed"), (False, "sdpa"), (False, "packed")]


def test_dropout_under_gpt2s_names_is_off(write_model):
    path = write_model(GPT2LMHeadModel, GPT2Config(vocab_size=430, n_embd=32, n_layer=2, n_head=4, **PADDING))
    assert AutoConfig.from_pretrained(path).resid_pdrop == 0.1
    model = load_causal(path, MODEL, qwen(), trained=True)
    scalar = new_scalar(path, MODEL, qwen(), seed=1)
    ids = torch.tensor([[5, 6, 7, 8]])
    with use_attention(model, "eager"), use_attention(scalar, "eager"):
        assert model.training
        assert torch.equal(model(ids).logits, model(ids).logits)
        assert torch.equal(scalar.transformer(ids)[0], scalar.transformer(ids)[0])


def test_a_model_that_attends_to_later_tokens_fails_as_not_causal():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0
    )
    model = new_model(BertLMHeadModel, config, attn_implementation="eager")
    failure = failure_of(model, "eager")
    assert failure.what == "causal"
    assert failure.difference > 0.01
