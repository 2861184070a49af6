"""What tests of packed rows share: a sequence, neighbours to perturb, and the implementations of attention.

A place is asked for what it makes of one sequence and of its neighbour, twice; between, another neighbour of the same
length takes the first one's place. What was made of the sequence must be the same to the last bit, and what was made of
the neighbour must not, or nothing was tested.
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
MINE, NEIGHBOUR, OTHER = [5, 6, 7, 8, 9, 10], [20, 21, 22, 23, 24], [30, 31, 32, 33, 34]


def assert_unmoved(place: Callable[[list[int]], Sequence[torch.Tensor]]) -> None:
    """`place(neighbour)` returns what it makes of MINE and of the neighbour."""
    (mine, theirs), (again, moved) = place(NEIGHBOUR), place(OTHER)
    assert torch.equal(mine, again)
    assert not torch.equal(theirs, moved)
