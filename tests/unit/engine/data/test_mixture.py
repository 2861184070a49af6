"""Several weighted sources as one set of rows: how often each row appears, and in which order."""

import pytest
from datasets import Dataset

from engine.data.mixture import mix_sources


def numbers(start, stop):
    return Dataset.from_dict({"n": range(start, stop)})


def mixed(*sources, seed=0):
    return mix_sources(sources, seed)["n"][:]


def test_sources_alternate_evenly():
    assert mixed((numbers(0, 4), 1.0), (numbers(10, 12), 1.0)) == [0, 10, 1, 2, 11, 3]


def test_a_single_source_is_returned_unchanged():
    rows = numbers(0, 5)
    assert mix_sources([(rows, 1.0)], seed=0) is rows


def test_whole_weights_repeat_rows_and_fractions_are_sampled():
    assert mixed((numbers(0, 3), 2.0)) == [0, 1, 2, 0, 1, 2]
    some = mixed((numbers(0, 100), 1.25))
    assert some[:100] == list(range(100))
    assert len(set(some[100:])) == 25


def test_sampled_rows_depend_on_the_seed_only():
    def part(seed):
        return mixed((numbers(0, 1000), 0.1), seed=seed)

    assert part(0) == part(0) == sorted(part(0))
    assert len(set(part(0))) == 100
    assert part(0) != part(1)


def test_a_small_weight_takes_at_least_one_row():
    assert len(mixed((numbers(0, 3), 0.01))) == 1


@pytest.mark.parametrize("empty_first", [True, False])
def test_an_empty_source_contributes_no_rows(empty_first):
    sources = [(numbers(0, 0), 2.0), (numbers(0, 3), 2.0)]
    assert mixed(*(sources if empty_first else reversed(sources))) == [0, 1, 2, 0, 1, 2]
