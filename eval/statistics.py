"""Statistics of an evaluation: pure functions of plain numbers, with their sources."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
# Item indices that the bootstrap draws at once; as int64 they take 32 MiB.
DRAWS_AT_ONCE = 2**22
# The 97.5 % quantile of the standard normal distribution, for two-sided 95 % intervals.
Z95 = 1.959964
CALIBRATION_BINS = 10


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean, with the sum rounded only once (math.fsum). Raise ValueError if `values` is empty."""
    if not values:
        raise ValueError("the mean of no values")
    return math.fsum(values) / len(values)


def paired_bootstrap(differences: Sequence[float], seed: int, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval (low, high) of the mean of paired differences.

    `differences` has one number per item, in the units of the metric: the value of one subject minus that of another.
    Items are resampled with replacement, and an item's two values stay together. `low` and `high` are the 2.5 % and
    97.5 % quantiles of the resampled means. The same seed gives the same interval.

    Sources: Efron & Tibshirani 1993, ch. 13 (percentile interval); Koehn 2004 (paired systems).
    """
    (interval,) = paired_bootstraps([differences], seed, resamples)
    return interval


def paired_bootstraps(
    series: Sequence[Sequence[float]], seed: int, resamples: int = RESAMPLES
) -> list[tuple[float, float]]:
    """Return `paired_bootstrap` of each series. Series of equal length share their draws, which saves time."""
    lengths = np.array([len(values) for values in series])
    intervals: list[tuple[float, float]] = [(math.nan, math.nan)] * len(series)
    for length in dict.fromkeys(lengths.tolist()):
        places = np.flatnonzero(lengths == length).tolist()
        columns = np.array([series[place] for place in places], dtype=np.float64).T
        # The interval of a constant series has no width, but the resampled means differ by rounding.
        constant = (columns == columns[0]).all(0)
        low, high = np.percentile(_resampled_means(columns, seed, resamples), [2.5, 97.5], axis=0)
        low, high = np.where(constant, columns[0], low), np.where(constant, columns[0], high)
        for place, *interval in zip(places, low.tolist(), high.tolist(), strict=True):
            intervals[place] = (interval[0], interval[1])
    return intervals


def _resampled_means(columns: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Return (resamples, series) means of `columns` (items, series). All series use the same draws of items."""
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
    """Return, per item, 1 if our value is higher, ½ for a tie, 0 if theirs is higher."""
    return [float(a > b) + 0.5 * float(a == b) for a, b in zip(ours, theirs, strict=True)]


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the share of items where our value is higher; a tie counts ½. Raise ValueError without items."""
    return mean(wins(ours, theirs))


def pair_accuracy(margins: Sequence[float]) -> float:
    """Return the share of comparisons with a positive margin r(chosen) - r(rejected); a tie counts ½."""
    return win_rate(margins, [0.0] * len(margins))


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % score interval (low, high) of a share observed in `count` independent trials (Wilson 1927)."""
    z2 = Z95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return centre - half, centre + half


def correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Return Pearson's r; None if either does not vary or there are fewer than three values."""
    if len(x) < 3:
        return None
    a, b = (np.asarray(values, dtype=np.float64) - np.mean(values) for values in (x, y))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 1e-12 else None


def partial_correlation(x: Sequence[float], y: Sequence[float], given: Sequence[float]) -> float | None:
    """Return the partial correlation of x and y given `given` (Yule 1907).

    If x, y or `given` is constant, return `correlation(x, y)`. Return None if `given` explains x or y completely.
    """
    xy, xz, yz = correlation(x, y), correlation(x, given), correlation(y, given)
    if xy is None or xz is None or yz is None:
        return xy
    left = math.sqrt((1 - xz**2) * (1 - yz**2))
    return (xy - xz * yz) / left if left > 1e-6 else None


def calibration(
    confidences: Sequence[float], correct: Sequence[float], bins: int = CALIBRATION_BINS
) -> list[tuple[float, float, int]]:
    """Return (mean confidence, accuracy, count) of each bin of confidence that is not empty, in order.

    `confidences` are from ½ to 1, a range divided into `bins` bins of equal width; `correct` has 1, ½ or 0 per value.
    """
    bin_of = np.clip(((np.asarray(confidences) - 0.5) * 2 * bins).astype(int), 0, bins - 1)
    members = [np.flatnonzero(bin_of == at) for at in range(bins)]
    return [
        (float(np.asarray(confidences)[inside].mean()), float(np.asarray(correct)[inside].mean()), len(inside))
        for inside in members
        if len(inside)
    ]


def calibration_error(confidences: Sequence[float], correct: Sequence[float]) -> float:
    """Return the expected calibration error (Naeini et al. 2015): the mean of |confidence - accuracy| over the bins of
    `calibration`, weighted by count."""
    parts = calibration(confidences, correct)
    return sum(count * abs(confidence - accuracy) for confidence, accuracy, count in parts) / sum(
        count for _, _, count in parts
    )


def best_index(scores: Sequence[float | None]) -> int:
    """Return the index of the highest score; of equals, the first. None (an answer without a score) is lowest."""
    return max(range(len(scores)), key=lambda i: (_rank(scores[i]), -i))


def expected_best_of(scores: Sequence[float | None], values: Sequence[float], k: int) -> float:
    """Return the expected value of the highest-scoring answer among k drawn without replacement from the n given.

    `scores` rank the answers and `values` are averaged; both have one number per answer. This is the unbiased estimator
    of Nakano et al. 2021 (appendix I): with answers sorted by score, the answer of rank i (from 1, best first) is the
    best one in C(n - i, k - 1) of the C(n, k) subsets. For k = n the result is the value at `best_index`.
    """
    n = len(scores)
    order = sorted(range(n), key=lambda i: (-_rank(scores[i]), i))
    weights = (math.comb(n - rank, k - 1) / math.comb(n, k) for rank in range(1, n + 1))
    return math.fsum(weight * values[i] for weight, i in zip(weights, order, strict=True))


def best_of_kl(n: int) -> float:
    """Return log n - (n - 1) / n, the KL in nats of best-of-n sampling to the sampled policy (Stiennon et al. 2020).

    This is an upper bound. It is tight as long as no single answer is likely (Beirami et al. 2024).
    """
    return math.log(n) - (n - 1) / n


def perplexity(nll: float, tokens: int) -> float:
    """Return the perplexity of a text: exp of its total negative log-likelihood `nll` in nats per token."""
    return math.exp(nll / tokens)


def bits_per_byte(nll: float, size: int) -> float:
    """Return a text's negative log-likelihood in bits per byte: `nll` is in nats, `size` in bytes of UTF-8."""
    return nll / math.log(2) / size


def distinct_share(texts: Sequence[str]) -> float:
    """Return the number of distinct texts divided by the number of texts; near 0 if a policy repeats one answer."""
    return len(set(texts)) / len(texts)


def commonest_opening_share(texts: Sequence[str]) -> float:
    """Return the share of texts with the most common first three words; near 1 if a policy uses a template."""
    openings = Counter(tuple(text.split()[:3]) for text in texts)
    return openings.most_common(1)[0][1] / len(texts)


def _rank(score: float | None) -> float:
    return -math.inf if score is None else score
