"""Find training records that share text with an evaluation set.

The report removed instruction data that shares 13 consecutive words with a test set (2.1, the method of Brown et al.
2020). Here such records are only counted and listed; the user decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from show.words import word_ngrams

OVERLAP_WORDS = 13


@dataclass(frozen=True)
class EvaluationSet:
    name: str
    places: list[str]
    """file and line of each record"""
    runs: dict[tuple[str, ...], int]
    """run of 13 words -> index of the first record that contains it"""
    short: int
    """number of records with fewer words in every text; their overlap cannot be detected"""


class Overlap(NamedTuple):
    """Training record `record` and evaluation record `other` have these 13 words in common."""

    record: int
    other: int
    run: tuple[str, ...]


def evaluation_set(name: str, records: Iterable[tuple[str, Mapping[str, Any]]]) -> EvaluationSet:
    """Return the runs of 13 words in all strings of the records, given as (place, record), whatever their field."""
    places: list[str] = []
    runs: dict[tuple[str, ...], int] = {}
    short = 0
    for where, record in records:
        own = set(word_ngrams(all_strings(record), OVERLAP_WORDS))
        short += not own
        for run in own:
            runs.setdefault(run, len(places))
        places.append(where)
    return EvaluationSet(name, places, runs, short)


def find_overlaps(texts: Sequence[Sequence[str]], evaluation: EvaluationSet) -> list[Overlap]:
    """Return the first overlap of each record with the set, if it has one. Each record is given as its texts."""
    found = []
    for index, record in enumerate(texts):
        run = next((run for run in word_ngrams(record, OVERLAP_WORDS) if run in evaluation.runs), None)
        if run:
            found.append(Overlap(index, evaluation.runs[run], run))
    return found


def all_strings(value: Any) -> Iterable[str]:
    """Yield every string in nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from all_strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from all_strings(item)
