"""Records that repeat an earlier one, exactly or nearly.

Nearly: of the five-word runs of two records, at least 0.8 are common to both (their Jaccard similarity). MinHash, by
rensa, proposes which records to compare, and the comparison itself is exact; what is alike at the very threshold goes
unproposed in 2 cases of 1,000.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from rensa import RMinHash, RMinHashLSH

from show.words import grams, words

RUN = 5
THRESHOLD = 0.8
# A pair of similarity s is proposed with probability 1 - (1 - s^6)^20: 0.998 at 0.8, and 0.01 at 0.3.
PERMUTATIONS, BANDS = 120, 20


class Near(NamedTuple):
    """Record `index` is like the earlier record `other`."""

    index: int
    other: int
    similarity: float


def repeats(keys: Iterable[Hashable]) -> dict[int, int]:
    """index -> the first index that has the same key, for every key that was seen before."""
    first: dict[Hashable, int] = {}
    return {index: at for index, key in enumerate(keys) if (at := first.setdefault(key, index)) != index}


def near_repeats(texts: Sequence[Sequence[str]]) -> list[Near]:
    """The records that are nearly what an earlier one is that is itself like none before it.

    Each record is the texts it holds; one of fewer than five words counts as a single run, one without words is left
    out.
    """
    runs = [shingles(record) for record in texts]
    index = RMinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, num_bands=BANDS)
    found = []
    for number, sketch in enumerate(RMinHash.from_token_sets(map(list, runs), num_perm=PERMUTATIONS, seed=0)):
        if not runs[number]:
            continue
        similar = ((other, jaccard(runs[number], runs[other])) for other in sorted(index.query(sketch)))
        match = next((pair for pair in similar if pair[1] >= THRESHOLD), None)
        if match:
            found.append(Near(number, *match))
        else:
            index.insert(number, sketch)
    return found


def shingles(texts: Sequence[str]) -> set[str]:
    """The five-word runs of a record."""
    found = {" ".join(run) for run in grams(texts, RUN)}
    return found or {" ".join(word for text in texts for word in words(text))} - {""}


def jaccard(one: set[str], other: set[str]) -> float:
    """What is in both, as a share of what is in either."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)
