"""The rows of several sources as one set.

A source of n rows with weight w gives round(w·n) of them, one at least: each as often as w is whole, and as many more
as are missing, drawn with the run's seed. The sources then alternate evenly from the first row to the last.
"""

from collections.abc import Sequence
from random import Random

import numpy as np
from datasets import Dataset, concatenate_datasets


def mixed(sources: Sequence[tuple[Dataset, float]], seed: int) -> Dataset:
    """Rows of all (rows, weight), in an order that depends on nothing but them and the seed; nothing is copied."""
    if len(sources) == 1 and sources[0][1] == 1:
        return sources[0][0]
    chosen, places, numbers = [], [], []
    before = 0
    for number, (rows, weight) in enumerate(sources):
        taken = drawn(len(rows), weight, Random(f"{seed}/{number}"))
        chosen.append(before + taken)
        places.append((np.arange(len(taken)) + 0.5) / max(len(taken), 1))
        numbers.append(np.full(len(taken), number))
        before += len(rows)
    order = np.lexsort((np.concatenate(numbers), np.concatenate(places)))
    return concatenate_datasets([rows for rows, _ in sources]).select(np.concatenate(chosen)[order])


def drawn(total: int, weight: float, random: Random) -> np.ndarray:
    """Which of `total` rows a source of this weight gives, and how often: positions, ascending within each pass."""
    if total == 0:
        return np.arange(0)
    whole, missing = divmod(max(1, round(weight * total)), total)
    return np.concatenate([*[np.arange(total)] * whole, np.array(sorted(random.sample(range(total), missing)), int)])
