"""The self-test's twin of a model: a few layers of every kind, in float32, independent of the model."""

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from engine.forward.logprobs import with_logprobs
from engine.models.self_test import failure_of
from engine.models.twin import float32_twin
from tests.support.small_models import EXPERTS, FAMILIES, SIZES, small_config, small_model


def test_a_twin_has_few_layers_and_rows_and_shares_float32_weights():
    model = small_model(num_hidden_layers=6, tie_word_embeddings=True)
    twin = float32_twin(model, 64)
    assert len(twin.model.layers) == 2
    assert len(model.model.layers) == 6
    assert twin.lm_head.weight is twin.model.embed_tokens.weight
    assert len(twin.lm_head.weight) == 64
    shared = "model.layers.1.mlp.up_proj.weight"
    assert twin.get_parameter(shared).data_ptr() == model.get_parameter(shared).data_ptr()
    assert twin.config is not model.config


def test_a_twin_is_as_deep_as_the_last_new_kind_of_layer():
    config = Qwen3MoeConfig(**{**SIZES, "num_hidden_layers": 8}, **EXPERTS, head_dim=8, mlp_only_layers=[0, 1, 2, 5])
    twin = float32_twin(Qwen3MoeForCausalLM(config), 64)
    assert [type(layer.mlp).__name__ for layer in twin.model.layers] == [
        "Qwen3MoeMLP", "Qwen3MoeMLP", "Qwen3MoeMLP", "Qwen3MoeSparseMoeBlock",
    ]  # fmt: skip
    windows = small_model(num_hidden_layers=5, use_sliding_window=True, sliding_window=8, max_window_layers=3)
    assert len(float32_twin(windows, 64).model.layers) == 4


def test_quantised_layers_are_replaced_by_plain_ones_of_the_same_size():
    """bitsandbytes stores two weights in a byte: its layers are Linear with a weight of another shape and dtype."""
    model = with_logprobs(FAMILIES["qwen2"][1])(small_config("qwen2", attn_implementation="packed"))
    for layer in model.model.layers:
        for linear in (layer.mlp.up_proj, layer.self_attn.q_proj):
            size = linear.weight.numel() // 2
            linear.weight = torch.nn.Parameter(torch.zeros(size, 1, dtype=torch.uint8), requires_grad=False)
    twin = float32_twin(model, 64)
    assert twin.model.layers[0].mlp.up_proj.weight.shape == (64, 32)
    assert twin.model.layers[0].self_attn.q_proj.bias is not None
    assert failure_of(model.train(), "packed") is None


def test_a_twin_is_float32_and_its_constant_weights_are_random():
    model = small_model().to(torch.bfloat16)
    model.model.norm.weight.data.fill_(1)
    model.model.layers[0].self_attn.q_proj.bias.data.zero_()
    model.model.layers[0].mlp.down_proj.weight.data.mul_(1e-3)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    state = torch.get_rng_state()
    twin = float32_twin(model, 64)
    assert {weight.dtype for weight in twin.parameters()} == {torch.float32}
    assert twin.model.norm.weight.std() > 0.05
    assert twin.model.layers[0].self_attn.q_proj.bias.std() > 0.05
    assert 0.1 < twin.model.layers[0].mlp.down_proj.weight.std() < 0.15  # 64 inputs: 1/8
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
