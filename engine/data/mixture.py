"""Several sources as one list of records.

A source of n records with weight w gives round(w·n) of them, one at least: each as often as w is whole, and as many
more as are missing, drawn with the run's seed. The sources then alternate evenly from the first record to the last.
"""

from collections.abc import Sequence
from random import Random
from typing import Any

from engine.data.sources import read
from recipes import RecipeError
from recipes.sections import Source


def mixed(sources: Sequence[Source], seed: int) -> list[tuple[str, dict[str, Any]]]:
    """(where, record) of all sources, in an order that depends on nothing but them and the seed. Raises RecipeError."""
    placed: list[tuple[float, int, tuple[str, dict[str, Any]]]] = []
    for index, source in enumerate(sources):
        taken = _weighted(list(read(source)), source, Random(f"{seed}/{index}"))
        placed += [((at + 0.5) / len(taken), index, record) for at, record in enumerate(taken)]
    if len(sources) > 1:
        placed.sort(key=lambda place: place[:2])
    return [record for _, _, record in placed]


def _weighted(records: list[Any], source: Source, random: Random) -> list[Any]:
    if not records:
        raise RecipeError(f"{source.path}: no records in it")
    whole, missing = divmod(max(1, round(source.weight * len(records))), len(records))
    return records * whole + [records[at] for at in sorted(random.sample(range(len(records)), missing))]
