"""Tiled log-probabilities compared with torch's log_softmax: values, entropy and gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import PhiConfig, PhiForCausalLM

from engine.forward.attention import use_attention
from engine.forward.logprobs import MAX_STORED_LOGITS, tiled_logprobs, with_logprobs
from engine.forward.packed import pack
from tests.support.small_models import FAMILIES, SIZES, small_config, small_model

# Positions and tokens per tile; a vocabulary of 50 has three tiles, the last of them smaller.
TILE = (8, 20)


@pytest.mark.parametrize("positions", [1, TILE[0], 2 * TILE[0] + 3])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kept", [0, MAX_STORED_LOGITS])
def test_logprobs_and_entropy_equal_log_softmax_with_gradients(positions, temperature, kept, monkeypatch):
    monkeypatch.setattr("engine.forward.logprobs.MAX_STORED_LOGITS", kept)
    monkeypatch.setattr("engine.forward.logprobs.TILE_ON_CPU", TILE)
    torch.manual_seed(0)
    hidden = torch.randn(positions, 16, requires_grad=True)
    weight = torch.randn(50, 16, requires_grad=True)
    targets, upstream = torch.randint(50, (positions,)), torch.randn(positions)

    plain = (hidden @ weight.t() / temperature).log_softmax(-1)
    expected = plain.gather(1, targets[:, None])[:, 0]
    gradients = torch.autograd.grad((expected * upstream).sum(), [hidden, weight], retain_graph=True)

    logprobs, entropy = tiled_logprobs(hidden, weight, targets, temperature)
    assert_close(logprobs, expected)
    plain_entropy = -(plain.exp() * plain).sum(-1)
    assert_close(entropy, plain_entropy, atol=1e-4, rtol=1e-4)
    for one, other in zip(
        torch.autograd.grad((logprobs * upstream).sum(), [hidden, weight], retain_graph=True), gradients, strict=True
    ):  # fmt: skip
        assert_close(one, other, atol=1e-4, rtol=1e-4)

    # The gradient of the entropy, alone and added to that of the log-probabilities.
    for theirs, mine in ((plain_entropy, entropy), (plain_entropy + expected, entropy + logprobs)):
        wanted = torch.autograd.grad((theirs * upstream).sum(), [hidden, weight], retain_graph=True)
        got = torch.autograd.grad((mine * upstream).sum(), [hidden, weight], retain_graph=True)
        for one, other in zip(got, wanted, strict=True):
            assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_under_autocast_the_backward_pass_is_in_bfloat16_too(monkeypatch):
    """Trainers run backward outside of autocast, where products would be in float32, ten times slower on a GPU."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets, found = torch.randint(50, (40,)), []
    for kept in (MAX_STORED_LOGITS, 0):  # logits stored in the forward pass, then recomputed: the results are equal
        monkeypatch.setattr("engine.forward.logprobs.MAX_STORED_LOGITS", kept)
        with torch.autocast("cpu", torch.bfloat16):
            logprobs, _ = tiled_logprobs(hidden, weight, targets)
        found.append((logprobs, *torch.autograd.grad(logprobs.sum(), [hidden, weight])))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    with torch.autocast("cpu", torch.bfloat16):
        plain = F.linear(hidden, weight).float().log_softmax(-1).gather(1, targets[:, None])[:, 0]
    expected = (plain, *torch.autograd.grad(plain.sum(), [hidden, weight]))
    for one, other in zip(found[0], expected, strict=True):
        assert one.dtype == torch.float32
        assert_close(one, other, atol=2e-2, rtol=1e-2)
    _, of_hidden, of_weight = found[0]
    assert all(torch.equal(gradient.bfloat16().float(), gradient) for gradient in (of_hidden, of_weight))


@pytest.mark.parametrize("kept", [0, MAX_STORED_LOGITS])
def test_the_bias_of_the_head_is_used_and_gets_a_gradient(kept, monkeypatch):
    monkeypatch.setattr("engine.forward.logprobs.MAX_STORED_LOGITS", kept)
    monkeypatch.setattr("engine.forward.logprobs.TILE_ON_CPU", TILE)
    torch.manual_seed(0)
    inputs = [torch.randn(*shape, requires_grad=True) for shape in ((19, 16), (50, 16), (50,))]
    hidden, weight, bias = inputs
    targets = torch.randint(50, (19,))
    plain = (F.linear(hidden, weight, bias) / 0.7).log_softmax(-1)
    expected = plain.gather(1, targets[:, None])[:, 0]
    entropy = -(plain.exp() * plain).sum(-1)
    found = tiled_logprobs(hidden, weight, targets, 0.7, bias=bias)
    assert_close(found, (expected, entropy), atol=1e-4, rtol=1e-4)
    wanted = torch.autograd.grad((expected + entropy).sum(), inputs)
    assert_close(torch.autograd.grad(sum(found).sum(), inputs), wanted, atol=1e-4, rtol=1e-4)


def test_logprobs_of_a_model_with_a_biased_head_equal_those_of_its_logits():
    torch.manual_seed(0)
    model = with_logprobs(PhiForCausalLM)(PhiConfig(**SIZES, pad_token_id=None)).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    positions, targets = torch.tensor([0, 1, 2]), torch.tensor([6, 7, 8])
    with use_attention(model, "packed"):
        out = model(**pack([[5, 6, 7, 8]]), logprob_positions=positions, logprob_targets=targets)
    with use_attention(model, "eager"):
        logits = model(torch.tensor([[5, 6, 7, 8]])).logits[0]
    assert_close(out.logprobs, -F.cross_entropy(logits[:3], targets, reduction="none"), atol=1e-5, rtol=1e-4)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(7, 4)
    tiled_logprobs(hidden, weight, torch.tensor([0, 1, 2]))[0].sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_of_a_model_equal_those_of_its_logits(family):
    plain = small_model(family)
    model = with_logprobs(FAMILIES[family][1])(small_config(family)).eval()
    model.load_state_dict(plain.state_dict())
    assert type(model).__name__ == FAMILIES[family][1].__name__
    sequences = [[5, 6, 7, 8], [9, 10, 11]]
    positions, targets = torch.tensor([1, 2, 5]), torch.tensor([7, 8, 11])
    with use_attention(model, "packed"):
        out = model(**pack(sequences), logprob_positions=positions, logprob_targets=targets)
    with use_attention(plain, "sdpa"):
        logits = torch.cat([plain(torch.tensor([s]), use_cache=False).logits[0] for s in sequences])
    assert_close(out.logprobs, -F.cross_entropy(logits[positions], targets, reduction="none"), atol=1e-5, rtol=1e-4)
