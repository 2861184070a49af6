"""What processes share out and learn of each other: five items in three processes, one whose share is empty."""

import time

import torch
from accelerate import Accelerator

from engine.dist.collectives import all_gather_items, all_gather_ragged, count_waits, max_over_ranks, take_share
from engine.forward.responses import micro_batches_on_all_ranks
from tests.support.processes import together


def exchanged(items: list[str], lengths: list[int]) -> tuple:
    Accelerator(cpu=True)
    mine, own = take_share(items), take_share(lengths)
    values = torch.cat([torch.zeros(2, 0), *(torch.full((2, length), float(length)) for length in own)], -1)
    runs = micro_batches_on_all_ranks(own, budget=3)
    return (
        mine,
        max_over_ranks(len(mine)),
        all_gather_items([item * 2 for item in mine]),
        all_gather_ragged(values, own)[1].tolist(),
        runs,
    )


def test_items_are_dealt_in_turn_and_all_know_the_whole_in_its_order():
    found = together(exchanged, ["a", "b", "c", "d", "e"], [1, 2, 1, 3, 2], processes=3)
    assert [mine for mine, *_ in found] == [["a", "d"], ["b", "e"], ["c"]]
    for _, largest, doubled, values, _ in found:
        assert largest == 2
        assert doubled == ["aa", "bb", "cc", "dd", "ee"]
        assert values == [1, 2, 2, 1, 3, 3, 3, 2, 2]
    # 1 and 3 tokens, 2 and 2 do not go together in 3; the third goes forward once without a row of its own
    assert [runs for *_, runs in found] == [[slice(0, 1), slice(1, 2)]] * 2 + [[slice(0, 1), slice(0, 0)]]


def test_fewer_items_than_processes():
    found = together(exchanged, ["a"], [2], processes=3)
    assert [mine for mine, *_ in found] == [["a"], [], []]
    assert [(doubled, values) for _, _, doubled, values, _ in found] == [(["aa"], [2, 2])] * 3
    assert [runs for *_, runs in found] == [[slice(0, 1)], [slice(0, 0)], [slice(0, 0)]]


def test_one_process_has_all():
    assert (take_share("abc"), max_over_ranks(3), all_gather_items([1, 2])) == (["a", "b", "c"], 3, [1, 2])


def waited():
    """The second rank is late twice; only the first time is counted."""
    accelerator = Accelerator(cpu=True)
    accelerator.wait_for_everyone()

    def gather():
        time.sleep(0.5 * accelerator.process_index)
        all_gather_ragged(torch.ones(1), [1])

    with count_waits() as clock:
        gather()
    gather()
    return clock.seconds


def test_the_wait_for_slower_ranks_is_counted_where_it_is_asked_for():
    first, second = together(waited)
    assert 0.4 < first < 0.9
    assert second < 0.2
    with count_waits() as clock:
        all_gather_items([1])
    assert clock.seconds == 0
