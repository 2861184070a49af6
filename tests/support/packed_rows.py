"""Check that no sequence of a packed row affects another, under each attention implementation.

A function under test is called twice, each time with SEQUENCE and another sequence of the same row, its neighbour. Its
results for SEQUENCE must be equal bit for bit. Its results for the neighbour must differ, or nothing was tested.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from transformers.utils import is_flash_attn_2_available

ON_A_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or not is_flash_attn_2_available(), reason="needs a GPU and flash-attn"
    ),
]
ATTENTIONS = ["packed", "sdpa", "eager", pytest.param("flash_attention_2", marks=ON_A_GPU)]
SEQUENCE, NEIGHBOUR, OTHER_NEIGHBOUR = [5, 6, 7, 8, 9, 10], [20, 21, 22, 23, 24], [30, 31, 32, 33, 34]


def assert_isolated(compute: Callable[[list[int]], Sequence[torch.Tensor]]) -> None:
    """Assert that the neighbour does not affect SEQUENCE; `compute(neighbour)` returns the results for both."""
    (first, neighbours), (second, others) = compute(NEIGHBOUR), compute(OTHER_NEIGHBOUR)
    assert torch.equal(first, second)
    assert not torch.equal(neighbours, others)
