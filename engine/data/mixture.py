"""Mix the rows of several weighted sources.

A source of n rows with weight w contributes round(w·n) rows, at least one: all rows equally often, and the remainder
drawn with the run's seed. The rows of all sources are then interleaved evenly from the first to the last.
"""

from collections.abc import Sequence
from random import Random

import numpy as np
from datasets import Dataset, concatenate_datasets


def mix_sources(sources: Sequence[tuple[Dataset, float]], seed: int) -> Dataset:
    """Return the mixed rows of (rows, weight) pairs, without copying. They depend on the pairs and the seed only."""
    if len(sources) == 1 and sources[0][1] == 1:
        return sources[0][0]
    chosen, places, numbers = [], [], []
    before = 0
    for number, (rows, weight) in enumerate(sources):
        taken = draw_rows(len(rows), weight, Random(f"{seed}/{number}"))
        chosen.append(before + taken)
        places.append((np.arange(len(taken)) + 0.5) / max(len(taken), 1))
        numbers.append(np.full(len(taken), number))
        before += len(rows)
    order = np.lexsort((np.concatenate(numbers), np.concatenate(places)))
    return concatenate_datasets([rows for rows, _ in sources]).select(np.concatenate(chosen)[order])


def draw_rows(total: int, weight: float, random: Random) -> np.ndarray:
    """Return the positions, in `total` rows, that a source of this weight contributes, ascending within each pass."""
    if total == 0:
        return np.arange(0)
    whole, missing = divmod(max(1, round(weight * total)), total)
    return np.concatenate([*[np.arange(total)] * whole, np.array(sorted(random.sample(range(total), missing)), int)])
