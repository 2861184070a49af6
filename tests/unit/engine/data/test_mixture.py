"""Several sources as one set of rows: how often each row comes, and in which order."""

import pytest
from datasets import Dataset

from engine.data.mixture import mix_sources


def numbers(start, stop):
    return Dataset.from_dict({"n": range(start, stop)})


def taken(*sources, seed=0):
    return mix_sources(sources, seed)["n"][:]


def test_sources_alternate_evenly():
    assert taken((numbers(0, 4), 1.0), (numbers(10, 12), 1.0)) == [0, 10, 1, 2, 11, 3]


def test_one_source_keeps_its_order_and_is_not_touched():
    rows = numbers(0, 5)
    assert mix_sources([(rows, 1.0)], seed=0) is rows


def test_whole_weights_repeat_and_parts_are_drawn():
    assert taken((numbers(0, 3), 2.0)) == [0, 1, 2, 0, 1, 2]
    some = taken((numbers(0, 100), 1.25))
    assert some[:100] == list(range(100))
    assert len(set(some[100:])) == 25


def test_what_is_drawn_depends_on_the_seed_alone():
    def part(seed):
        return taken((numbers(0, 1000), 0.1), seed=seed)

    assert part(0) == part(0) == sorted(part(0))
    assert len(set(part(0))) == 100
    assert part(0) != part(1)


def test_even_a_small_weight_takes_one():
    assert len(taken((numbers(0, 3), 0.01))) == 1


@pytest.mark.parametrize("empty_first", [True, False])
def test_a_source_of_which_nothing_was_kept_gives_nothing(empty_first):
    sources = [(numbers(0, 0), 2.0), (numbers(0, 3), 2.0)]
    assert taken(*(sources if empty_first else reversed(sources))) == [0, 1, 2, 0, 1, 2]
