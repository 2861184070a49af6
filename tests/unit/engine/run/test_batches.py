"""How rows are dealt to processes: each exactly once an epoch, whatever divides by what."""

from itertools import chain

import pytest
from torch.utils.data import RandomSampler, SequentialSampler
from trl import RewardConfig, SFTConfig

from engine.run.batches import Batches, batch_of, parts_a_step, shares


def epoch(rows, batch, at_once, processes, epoch=0, sampler=RandomSampler, drop_last=False):
    """[step][process] -> that process's parts."""
    parts, steps = parts_a_step(batch, at_once, processes), {}
    for process in range(processes):
        batches = Batches(
            sampler(range(rows)), batch, 3, parts=parts, processes=processes, process=process, drop_last=drop_last
        )
        batches.set_epoch(epoch)
        taken = list(batches)
        assert len(taken) == len(batches)
        for at in range(0, len(taken), parts):
            steps.setdefault(at // parts, []).append(taken[at : at + parts])
    return list(steps.values())


def test_shares_by_hand():
    assert shares(range(8), 2, 2) == [[range(0, 2), range(4, 6)], [range(2, 4), range(6, 8)]]
    assert shares([7, 8, 9], 2, 2) == [[[7], [9]], [[8], []]]
    assert parts_a_step(batch=8, at_once=2, processes=2) == 2
    assert parts_a_step(batch=8, at_once=8, processes=2) == parts_a_step(1, 1, 4) == 1
    assert parts_a_step(batch=9, at_once=2, processes=2) == 3


@pytest.mark.parametrize("rows", [1, 7, 8, 23, 24])
@pytest.mark.parametrize(("batch", "at_once"), [(8, 8), (8, 2), (6, 4), (1, 1)])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_every_row_once_an_epoch_in_the_batches_of_one_process(rows, batch, at_once, processes):
    steps = epoch(rows, batch, at_once, processes)
    of_one = epoch(rows, batch, batch, 1)
    assert [sorted(chain(*chain(*step))) for step in steps] == [sorted(step[0][0]) for step in of_one]
    assert sorted(chain(*chain(*chain(*steps)))) == list(range(rows))
    sizes = [len(part) for step in steps for process in step for part in process]
    assert max(sizes) <= at_once


def test_the_order_is_of_the_seed_and_the_epoch():
    first, second = (epoch(24, 8, 8, 1, epoch=n) for n in (0, 1))
    assert first == epoch(24, 8, 8, 1)
    assert first != second
    assert epoch(9, 4, 4, 1, sampler=SequentialSampler) == [[[[0, 1, 2, 3]]], [[[4, 5, 6, 7]]], [[[8]]]]
    assert len(epoch(23, 8, 8, 2, drop_last=True)) == 2


def test_the_batch_is_the_recipes():
    section = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 64}
    assert batch_of(SFTConfig, section) == (128, 2)
    assert batch_of(RewardConfig, {}) == (8, 8)
