"""Collectives on three ranks: items are distributed, gathered in order, and ranks may have none."""

import time

import torch
from accelerate import Accelerator

from engine.dist.collectives import all_gather_items, all_gather_ragged, count_waits, max_over_ranks, take_share
from engine.forward.responses import micro_batches_on_all_ranks
from tests.support.processes import run_on_ranks


def take_and_gather(items: list[str], lengths: list[int]) -> tuple:
    Accelerator(cpu=True)
    own_items, own = take_share(items), take_share(lengths)
    values = torch.cat([torch.zeros(2, 0), *(torch.full((2, length), float(length)) for length in own)], -1)
    runs = micro_batches_on_all_ranks(own, budget=3)
    return (
        own_items,
        max_over_ranks(len(own_items)),
        all_gather_items([item * 2 for item in own_items]),
        all_gather_ragged(values, own)[1].tolist(),
        runs,
    )


def test_items_are_taken_round_robin_and_gathered_in_their_order():
    found = run_on_ranks(take_and_gather, ["a", "b", "c", "d", "e"], [1, 2, 1, 3, 2], processes=3)
    assert [own_items for own_items, *_ in found] == [["a", "d"], ["b", "e"], ["c"]]
    for _, largest, doubled, values, _ in found:
        assert largest == 2
        assert doubled == ["aa", "bb", "cc", "dd", "ee"]
        assert values == [1, 2, 2, 1, 3, 3, 3, 2, 2]
    # 1 + 3 and 2 + 2 tokens exceed the budget of 3; the third rank's second forward pass has no row.
    assert [runs for *_, runs in found] == [[slice(0, 1), slice(1, 2)]] * 2 + [[slice(0, 1), slice(0, 0)]]


def test_ranks_without_items_take_part_in_collectives():
    found = run_on_ranks(take_and_gather, ["a"], [2], processes=3)
    assert [own_items for own_items, *_ in found] == [["a"], [], []]
    assert [(doubled, values) for _, _, doubled, values, _ in found] == [(["aa"], [2, 2])] * 3
    assert [runs for *_, runs in found] == [[slice(0, 1)], [slice(0, 0)], [slice(0, 0)]]


def test_a_single_process_takes_every_item():
    assert (take_share("abc"), max_over_ranks(3), all_gather_items([1, 2])) == (["a", "b", "c"], 3, [1, 2])


def seconds_waited():
    """Return the counted wait in seconds; the second rank is late twice, and only the first wait is counted."""
    accelerator = Accelerator(cpu=True)
    accelerator.wait_for_everyone()

    def gather():
        time.sleep(0.5 * accelerator.process_index)
        all_gather_ragged(torch.ones(1), [1])

    with count_waits() as clock:
        gather()
    gather()
    return clock.seconds


def test_only_waits_within_count_waits_are_counted():
    first, second = run_on_ranks(seconds_waited)
    assert 0.4 < first < 0.9
    assert second < 0.2
    with count_waits() as clock:
        all_gather_items([1])
    assert clock.seconds == 0
