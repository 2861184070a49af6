"""The statistics of an evaluation: pure functions over plain numbers, each with its source."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
# Items drawn at once by the bootstrap: 32 MiB.
DRAWS_AT_ONCE = 2**22
# The normal distribution's 97.5 % point, for intervals that hold 95 %.
Z95 = 1.959964
CALIBRATION_BINS = 10


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, summed without rounding on the way; ValueError of nothing."""
    if not values:
        raise ValueError("the mean of no values")
    return math.fsum(values) / len(values)


def paired_bootstrap(differences: Sequence[float], seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % interval of the mean of paired differences, one for each item: (low, high).

    Items are drawn with replacement, both subjects' figures of an item staying together, and the interval lies
    between the 2.5 and 97.5 % points of the resampled means (Efron & Tibshirani 1993, ch. 13; for paired systems
    Koehn 2004). The same seed gives the same interval.
    """
    (interval,) = paired_bootstraps([differences], seed, resamples)
    return interval


def paired_bootstraps(
    series: Sequence[Sequence[float]], seed: int, resamples: int = RESAMPLES
) -> list[tuple[float, float]]:
    """`paired_bootstrap` of every series; those of one length share their draws, which makes many of them cheap."""
    lengths = np.array([len(values) for values in series])
    intervals: list[tuple[float, float]] = [(math.nan, math.nan)] * len(series)
    for length in dict.fromkeys(lengths.tolist()):
        places = np.flatnonzero(lengths == length)
        columns = np.array([series[place] for place in places], dtype=np.float64).T
        # A constant series has an interval without width; resampling would leave rounding in it.
        constant = (columns == columns[0]).all(0)
        low, high = np.percentile(_resampled_means(columns, seed, resamples), [2.5, 97.5], axis=0)
        low, high = np.where(constant, columns[0], low), np.where(constant, columns[0], high)
        for place, *interval in zip(places.tolist(), low.tolist(), high.tolist(), strict=True):
            intervals[place] = (interval[0], interval[1])
    return intervals


def _resampled_means(columns: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """(resamples, series) means of (items, series), every series resampled by the same draws of items."""
    items, generator = len(columns), np.random.default_rng(seed)
    at_once = max(1, DRAWS_AT_ONCE // items)
    means = []
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = generator.integers(items, size=(count, items)) + items * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * items).reshape(count, items)
        means.append(times @ columns / items)
    return np.concatenate(means)


def wins(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """For each item 1 where our value is the higher one, ½ for a tie, 0 where theirs is."""
    return [float(a > b) + 0.5 * float(a == b) for a, b in zip(ours, theirs, strict=True)]


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Share of items where our value is the higher one; a tie counts half."""
    return mean(wins(ours, theirs))


def pair_accuracy(margins: Sequence[float]) -> float:
    """Share of comparisons whose chosen side scores higher, of r(chosen) - r(rejected); a tie counts half."""
    return win_rate(margins, [0.0] * len(margins))


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """95 % interval of a share seen in `count` independent trials (Wilson 1927)."""
    z2 = Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return centre - half, centre + half


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's r; None where either does not vary or there are fewer than three."""
    if len(x) < 3:
        return None
    a, b = (np.asarray(values, dtype=np.float64) - np.mean(values) for values in (x, y))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 1e-12 else None


def partial_correlation(x: Sequence[float], y: Sequence[float], given: Sequence[float]) -> float | None:
    """r of x and y with what `given` says of both taken out (Yule 1907); None where that leaves nothing that varies.

    Where `given` is constant it takes nothing out.
    """
    xy, xz, yz = correlation(x, y), correlation(x, given), correlation(y, given)
    if xy is None or xz is None or yz is None:
        return xy
    left = math.sqrt((1 - xz**2) * (1 - yz**2))
    return (xy - xz * yz) / left if left > 1e-6 else None


def calibration(
    sure: Sequence[float], right: Sequence[float], bins: int = CALIBRATION_BINS
) -> list[tuple[float, float, int]]:
    """(mean sureness, share that is right, how many) in equally wide stretches of sureness from ½ to 1; empty ones
    are left out."""
    place = np.clip(((np.asarray(sure) - 0.5) * 2 * bins).astype(int), 0, bins - 1)
    held = [np.flatnonzero(place == at) for at in range(bins)]
    return [
        (float(np.asarray(sure)[inside].mean()), float(np.asarray(right)[inside].mean()), len(inside))
        for inside in held
        if len(inside)
    ]


def calibration_error(sure: Sequence[float], right: Sequence[float]) -> float:
    """Expected calibration error: |sureness - share right| of `calibration`'s stretches, weighted by how many are in
    each (Naeini et al. 2015)."""
    parts = calibration(sure, right)
    return sum(count * abs(s - share) for s, share, count in parts) / sum(count for _, _, count in parts)


def best_index(scores: Sequence[float | None]) -> int:
    """Which answer has the highest score; one without a score (it never ended) is the lowest, of equals the first."""
    return max(range(len(scores)), key=lambda i: (_rank(scores[i]), -i))


def expected_best_of(scores: Sequence[float | None], values: Sequence[float], k: int) -> float:
    """Expected value of the best-scored of k answers, drawn without replacement from those given.

    The unbiased estimator of Nakano et al. 2021 (appendix I): with answers sorted by score, the one of rank i (from 1,
    best first) is the best of C(n - i, k - 1) of the C(n, k) subsets. For k = n it is the value at `best_index`.
    """
    n = len(scores)
    order = sorted(range(n), key=lambda i: (-_rank(scores[i]), i))
    weights = (math.comb(n - rank, k - 1) / math.comb(n, k) for rank in range(1, n + 1))
    return math.fsum(weight * values[i] for weight, i in zip(weights, order, strict=True))


def best_of_kl(n: int) -> float:
    """KL in nats of best-of-n sampling against the policy it samples from: log n - (n - 1) / n (Stiennon et al. 2020).

    An upper bound, close to the truth as long as no answer is likely by itself (Beirami et al. 2024).
    """
    return math.log(n) - (n - 1) / n


def perplexity(nll: float, tokens: int) -> float:
    """exp of the mean negative log-likelihood, in nats, of a token."""
    return math.exp(nll / tokens)


def bits_per_byte(nll: float, size: int) -> float:
    """Negative log-likelihood of a text in bits, `nll` being in nats, for each of its `size` bytes in UTF-8."""
    return nll / math.log(2) / size


def distinct_share(texts: Sequence[str]) -> float:
    """Different texts among all; near 0 where a policy says the same to everyone."""
    return len(set(texts)) / len(texts)


def commonest_opening_share(texts: Sequence[str], words: int = 3) -> float:
    """Share of texts that begin with the commonest first words; near 1 where a policy has one template."""
    openings = Counter(tuple(text.split()[:words]) for text in texts)
    return openings.most_common(1)[0][1] / len(texts)


def _rank(score: float | None) -> float:
    return -math.inf if score is None else score
