"""optimizer_step of an unsharded model: the gradient is clipped, and a gradient that is not finite changes nothing."""

import math

import pytest
import torch
from accelerate import Accelerator

from engine.dist.shard_model import optimizer_step


def stepped(gradient, max_grad_norm):
    """The norm that a step with this gradient returns, the weights after it, and the gradient."""
    layer = torch.nn.Linear(2, 1, bias=False)
    layer.weight.data.zero_()
    layer.weight.grad = torch.tensor([gradient])
    norm = optimizer_step(layer, torch.optim.SGD(layer.parameters(), lr=1.0), max_grad_norm, Accelerator(cpu=True))
    return norm, layer.weight.tolist(), layer.weight.grad


def test_the_gradient_is_clipped_and_cleared():
    norm, weights, gradient = stepped([3.0, 4.0], max_grad_norm=0.5)
    assert norm == pytest.approx(5.0)
    assert weights[0] == pytest.approx([-0.3, -0.4])
    assert gradient is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_cleared_and_changes_no_weight(value):
    norm, weights, gradient = stepped([value, 4.0], max_grad_norm=0.5)
    assert not math.isfinite(norm)
    assert weights == [[0.0, 0.0]]
    assert gradient is None
