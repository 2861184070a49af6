"""Find exact and near duplicates among records.

Two records are near duplicates if the Jaccard similarity of their sets of five-word runs (shingles) is at least 0.8.
MinHash (rensa) proposes candidate pairs, and their similarity is then computed exactly. A pair at the threshold is
missed in 2 of 1,000 cases.
"""

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from rensa import RMinHash, RMinHashLSH

from show.words import word_ngrams, words

SHINGLE_WORDS = 5
SIMILARITY_THRESHOLD = 0.8
# A pair of similarity s is proposed with probability 1 - (1 - s^6)^20: 0.998 at 0.8, and 0.01 at 0.3.
PERMUTATIONS, BANDS = 120, 20


class NearDuplicate(NamedTuple):
    """Record `record` is a near duplicate of the earlier record `other`, with this Jaccard similarity."""

    record: int
    other: int
    similarity: float


def exact_duplicates(keys: Iterable[Hashable]) -> dict[int, int]:
    """Return index -> first index with the same key, for every key that occurred before."""
    first: dict[Hashable, int] = {}
    return {index: at for index, key in enumerate(keys) if (at := first.setdefault(key, index)) != index}


def near_duplicates(texts: Sequence[Sequence[str]]) -> list[NearDuplicate]:
    """Return the near duplicates among records, each given as its texts.

    Records are compared with the earlier ones that are not near duplicates themselves. A record of fewer than five
    words is one shingle; records without words are ignored.
    """
    runs = [shingles(record) for record in texts]
    index = RMinHashLSH(threshold=SIMILARITY_THRESHOLD, num_perm=PERMUTATIONS, num_bands=BANDS)
    found = []
    for number, sketch in enumerate(RMinHash.from_token_sets(map(list, runs), num_perm=PERMUTATIONS, seed=0)):
        if not runs[number]:
            continue
        similar = ((other, jaccard(runs[number], runs[other])) for other in sorted(index.query(sketch)))
        match = next((pair for pair in similar if pair[1] >= SIMILARITY_THRESHOLD), None)
        if match:
            found.append(NearDuplicate(number, *match))
        else:
            index.insert(number, sketch)
    return found


def shingles(texts: Sequence[str]) -> set[str]:
    """Return the five-word runs of a record; of a shorter one, all its words as one run."""
    found = {" ".join(run) for run in word_ngrams(texts, SHINGLE_WORDS)}
    return found or {" ".join(word for text in texts for word in words(text))} - {""}


def jaccard(one: set[str], other: set[str]) -> float:
    """Return the Jaccard similarity: the size of the intersection over the size of the union."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)
