"""Training records that share words with an evaluation set.

The report removed from its instruction data what shared a run of 13 words with a test set (2.1, by the method of Brown
et al. 2020). Here such records are counted and named, to be judged by a person.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from show.words import grams

RUN = 13


@dataclass(frozen=True)
class EvaluationSet:
    name: str
    places: list[str]
    """where each of its records stands"""
    runs: dict[tuple[str, ...], int]
    """each run of 13 words -> the first record that has it"""
    short: int
    """records without any such run, which cannot be found"""


class Shared(NamedTuple):
    """Training record `index` and evaluation record `other` have these 13 words in common."""

    index: int
    other: int
    run: tuple[str, ...]


def evaluation_set(name: str, records: Iterable[tuple[str, Mapping[str, Any]]]) -> EvaluationSet:
    """The runs of words in every string of every record, whatever its field is called."""
    places: list[str] = []
    runs: dict[tuple[str, ...], int] = {}
    short = 0
    for where, record in records:
        own = set(grams(strings(record), RUN))
        short += not own
        for run in own:
            runs.setdefault(run, len(places))
        places.append(where)
    return EvaluationSet(name, places, runs, short)


def shared(texts: Sequence[Sequence[str]], evaluation: EvaluationSet) -> list[Shared]:
    """The first run that each record shares with the set, for those that share one. Each record is its texts."""
    found = []
    for index, record in enumerate(texts):
        run = next((run for run in grams(record, RUN) if run in evaluation.runs), None)
        if run:
            found.append(Shared(index, evaluation.runs[run], run))
    return found


def strings(value: Any) -> Iterable[str]:
    """Every string in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from strings(item)
