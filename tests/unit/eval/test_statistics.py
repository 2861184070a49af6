"""The statistics of an evaluation, against numbers worked by hand."""

import math
from itertools import combinations

import numpy as np
import pytest

from eval import statistics
from eval.statistics import (
    best_index,
    best_of_kl,
    bits_per_byte,
    calibration,
    calibration_error,
    commonest_opening_share,
    correlation,
    distinct_share,
    expected_best_of,
    mean,
    pair_accuracy,
    paired_bootstrap,
    paired_bootstraps,
    partial_correlation,
    perplexity,
    wilson_interval,
    win_rate,
    wins,
)


def test_the_mean_of_an_empty_list_is_an_error():
    assert mean([1, 2, 6]) == 3
    with pytest.raises(ValueError, match="the mean of no values"):
        mean([])


def test_bootstrap_of_equal_differences_has_no_width():
    assert paired_bootstrap([0.1] * 7, seed=0) == (0.1, 0.1)  # exactly


def test_bootstrap_interval_of_two_prompts():
    """Resampled means of (0, 1) are 0, ½, 1 with probabilities ¼, ½, ¼, so the 95 % interval is [0, 1]."""
    assert paired_bootstrap([0.0, 1.0], seed=3) == (0.0, 1.0)


def test_bootstrap_interval_of_many_prompts_is_nearly_normal():
    """Mean ½, standard deviation ½ over prompts: ½ ± 1.96 · ½ / √400."""
    low, high = paired_bootstrap([0.0, 1.0] * 200, seed=1)
    assert low == pytest.approx(0.5 - 0.049, abs=0.004)
    assert high == pytest.approx(0.5 + 0.049, abs=0.004)


def test_bootstrap_depends_only_on_its_seed():
    differences = [math.sin(i) for i in range(50)]
    assert paired_bootstrap(differences, 5, resamples=200) == paired_bootstrap(differences, 5, resamples=200)
    assert paired_bootstrap(differences, 5, resamples=200) != paired_bootstrap(differences, 6, resamples=200)


def test_bootstrap_of_several_series_equals_that_of_each():
    series = [[math.sin(i) for i in range(50)], [1.0, 2.0, 4.0], [math.cos(i) for i in range(50)], [0.5] * 3]
    together = paired_bootstraps(series, seed=2, resamples=500)
    assert together == [pytest.approx(paired_bootstrap(values, 2, resamples=500)) for values in series]
    assert together[3] == (0.5, 0.5)


def test_bootstrap_equals_drawing_one_resample_at_a_time():
    values = np.array([math.sin(i) for i in range(30)])
    generator = np.random.default_rng(7)
    means = [values[generator.integers(30, size=30)].mean() for _ in range(400)]
    expected = np.percentile(means, [2.5, 97.5])
    assert paired_bootstrap(values.tolist(), 7, resamples=400) == pytest.approx(tuple(expected))


def test_the_chunk_size_does_not_change_the_bootstrap(monkeypatch):
    values = [math.sin(i) for i in range(30)]
    before = paired_bootstrap(values, 7, resamples=100)
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", 64)
    assert paired_bootstrap(values, 7, resamples=100) == pytest.approx(before)


def test_bits_per_byte_by_hand():
    assert bits_per_byte(8 * math.log(2), 4) == pytest.approx(2)


def test_ties_count_half():
    assert wins([1, 5, 3], [1, 2, 4]) == [0.5, 1, 0]
    assert win_rate([1, 5, 3, 3], [1, 2, 2, 4]) == (0.5 + 1 + 1 + 0) / 4
    assert pair_accuracy([1.5, -2.0, 0.0, 0.1]) == (1 + 0 + 0.5 + 1) / 4


def test_wilson_interval_of_five_and_ten_of_ten():
    assert wilson_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    low, high = wilson_interval(1.0, 10)
    assert low == pytest.approx(0.7225, abs=1e-4)
    assert high == pytest.approx(1.0)


def test_an_answer_without_a_score_is_chosen_last():
    assert best_index([None, -7.0, None]) == 1
    assert best_index([None, None]) == 0
    assert best_index([1.0, 2.0, 2.0]) == 1


def test_best_of_k_is_the_mean_over_all_choices_of_k():
    """Three answers: k = 1 is their mean; k = 2 the mean of 10, 10 and 4; k = 3 the best."""
    scores, values = [3.0, 1.0, 2.0], [10.0, 0.0, 4.0]
    assert [expected_best_of(scores, values, k) for k in (1, 2, 3)] == pytest.approx([14 / 3, 8, 10])


def test_best_of_k_equals_the_mean_over_enumerated_subsets():
    scores, values = [0.3, None, 2.0, 2.0, -1.0], [1.0, 2.0, 4.0, 8.0, 16.0]
    for k in range(1, 6):
        subsets = list(combinations(range(5), k))
        values_of_best = [values[s[best_index([scores[i] for i in s])]] for s in subsets]
        assert expected_best_of(scores, values, k) == pytest.approx(sum(values_of_best) / len(values_of_best))


def test_kl_of_best_of_n_by_hand():
    assert best_of_kl(1) == 0
    assert best_of_kl(2) == pytest.approx(0.19315, abs=1e-5)
    assert best_of_kl(8) == pytest.approx(1.20444, abs=1e-5)


def test_perplexity_is_per_token():
    assert perplexity(6 * math.log(5), 6) == pytest.approx(5)


def test_distinct_and_commonest_opening_shares_by_hand():
    texts = ["Gladly! It is red.", "Gladly! It is blue.", "No.", "No."]
    assert distinct_share(texts) == 3 / 4
    assert commonest_opening_share(texts) == 2 / 4
    assert commonest_opening_share([*texts, "Gladly! It is  blue."]) == 3 / 5


def test_correlation_by_hand():
    """Deviations (-1, 0, 1) and (-2, 1, 1): 3 / √(2 · 6)."""
    assert correlation([1, 2, 3], [0, 3, 3]) == pytest.approx(3 / math.sqrt(12))
    assert correlation([1, 1, 1], [0, 3, 3]) is None
    assert correlation([1, 2], [1, 2]) is None


def test_partial_correlation_is_within_the_values_of_the_given_variable():
    """x and y are negatively correlated within each value of `given`, and positively over all."""
    x, y, given = [1.0, 2.0, 11.0, 12.0], [2.0, 1.0, 12.0, 11.0], [0.0, 0.0, 1.0, 1.0]
    assert correlation(x, y) > 0.9
    assert partial_correlation(x, y, given) == pytest.approx(-1)


def test_a_constant_given_variable_does_not_change_the_correlation():
    x, y = [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]
    assert partial_correlation(x, y, [1.0, 1.0, 1.0]) == correlation(x, y)
    assert partial_correlation(x, y, x) is None


def test_calibration_by_hand():
    """Bins of 0.05: two values in 0.5 to 0.55, one in 0.9 to 0.95, and 1, which belongs to the last bin."""
    confidence, right = [0.5, 0.54, 0.92, 1.0], [0.5, 0.0, 1.0, 1.0]
    assert calibration(confidence, right) == [
        (pytest.approx(0.52), 0.25, 2), (pytest.approx(0.92), 1.0, 1), (1.0, 1.0, 1),
    ]  # fmt: skip
    assert calibration_error(confidence, right) == pytest.approx((2 * 0.27 + 0.08 + 0) / 4)
