"""The order of data as a pure function of seed and position, so that nothing must be saved to resume."""

import random
from array import array
from functools import lru_cache


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, total: int) -> array:
    order = array("q", range(total))  # 8 bytes per row instead of 36 in a list
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def shuffled_positions(seed: int, total: int, start: int, count: int) -> list[int]:
    """Return items start … start + count - 1 of an endless stream of row indices, reshuffled every `total` items."""
    return [_permutation(seed, at // total, total)[at % total] for at in range(start, start + count)]
