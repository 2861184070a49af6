"""The order of data as a pure function of a seed and a position: nothing to save, nothing to lose on resume."""

import random
from array import array
from functools import lru_cache


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, total: int) -> array:
    order = array("q", range(total))  # 8 bytes a row; a list takes 36
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def stream(seed: int, total: int, start: int, count: int) -> list[int]:
    """Positions start … start + count - 1 of an endless stream over `total` rows, shuffled anew every epoch."""
    return [_permutation(seed, at // total, total)[at % total] for at in range(start, start + count)]
