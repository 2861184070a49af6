"""Dropout is off under any family's name for it; attention dropout is set by the recipe."""

import pytest
import torch
from transformers import GPT2Config, MptConfig, OPTConfig, PhimoeConfig, Qwen2Config, SeedOssConfig

from engine.errors import RunError
from engine.models.dropout import set_dropout, switch_off_noise


def test_dropout_and_noise_are_off_in_the_configuration():
    gpt2, opt, seed = GPT2Config(), OPTConfig(layerdrop=0.2), SeedOssConfig(residual_dropout=0.1, attention_dropout=0.1)
    phimoe = PhimoeConfig(router_jitter_noise=0.01, input_jitter_noise=0.02)
    for config in (gpt2, opt, seed, phimoe):
        set_dropout(config, 0.0)
    assert (gpt2.resid_pdrop, gpt2.embd_pdrop, gpt2.attn_pdrop, gpt2.attention_dropout) == (0, 0, 0, 0)
    assert (opt.dropout, opt.attention_dropout, opt.layerdrop) == (0, 0, 0)
    assert (seed.residual_dropout, seed.attention_dropout) == (0, 0)
    assert (phimoe.router_jitter_noise, phimoe.input_jitter_noise) == (0, 0)
    assert gpt2.initializer_range == 0.02


def test_only_attention_dropout_is_set_under_the_familys_own_name():
    qwen, gpt2 = Qwen2Config(), GPT2Config()
    for config in (qwen, gpt2):
        set_dropout(config, 0.1)
    assert qwen.attention_dropout == 0.1
    assert (gpt2.attn_pdrop, gpt2.resid_pdrop, gpt2.embd_pdrop) == (0.1, 0, 0)


def test_dropout_that_a_family_does_not_have_is_refused():
    with pytest.raises(RunError) as error:
        set_dropout(MptConfig(), 0.1)
    assert str(error.value) == ("model.attention_dropout=0.1, but mpt models have no such dropout; set it to 0")
    set_dropout(MptConfig(), 0.0)


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_dropout, self.hidden = torch.nn.Dropout(0.3), torch.nn.Dropout(0.4)
        self.resid_drop_rate, self.jitter_noise, self.dropped, self.scale = 0.2, 0.1, True, 0.5


@pytest.mark.parametrize("keep_attention", [False, True])
def test_dropout_and_noise_of_modules_are_switched_off(keep_attention):
    layer = Layer()
    switch_off_noise(layer, keep_attention=keep_attention)
    assert (layer.hidden.p, layer.resid_drop_rate, layer.jitter_noise) == (0, 0, 0)
    assert layer.attn_dropout.p == (0.3 if keep_attention else 0)
    assert (layer.dropped, layer.scale) == (True, 0.5)
