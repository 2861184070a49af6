"""How rows are split over ranks: each row exactly once per epoch, also if sizes do not divide evenly."""

from itertools import chain

import pytest
from torch.utils.data import RandomSampler, SequentialSampler
from trl import RewardConfig, SFTConfig

from engine.run.batches import RankBatches, accumulation_steps, batch_sizes, split_batch


def epoch(rows, batch, micro_batch, num_ranks, epoch=0, sampler=RandomSampler, drop_last=False):
    """Return [step][rank] -> that rank's micro-batches."""
    parts, steps = accumulation_steps(batch, micro_batch, num_ranks), {}
    for rank in range(num_ranks):
        batches = RankBatches(
            sampler(range(rows)), batch, 3, parts=parts, num_ranks=num_ranks, rank=rank, drop_last=drop_last
        )
        batches.set_epoch(epoch)
        taken = list(batches)
        assert len(taken) == len(batches)
        for at in range(0, len(taken), parts):
            steps.setdefault(at // parts, []).append(taken[at : at + parts])
    return list(steps.values())


def test_splitting_a_batch_by_hand():
    assert split_batch(range(8), 2, 2) == [[range(0, 2), range(4, 6)], [range(2, 4), range(6, 8)]]
    assert split_batch([7, 8, 9], 2, 2) == [[[7], [9]], [[8], []]]
    assert accumulation_steps(batch=8, micro_batch=2, num_ranks=2) == 2
    assert accumulation_steps(batch=8, micro_batch=8, num_ranks=2) == accumulation_steps(1, 1, 4) == 1
    assert accumulation_steps(batch=9, micro_batch=2, num_ranks=2) == 3


@pytest.mark.parametrize("rows", [1, 7, 8, 23, 24])
@pytest.mark.parametrize(("batch", "micro_batch"), [(8, 8), (8, 2), (6, 4), (1, 1)])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
def test_every_row_is_in_one_batch_and_batches_equal_those_of_one_rank(rows, batch, micro_batch, num_ranks):
    steps = epoch(rows, batch, micro_batch, num_ranks)
    single_rank = epoch(rows, batch, batch, 1)
    assert [sorted(chain(*chain(*step))) for step in steps] == [sorted(step[0][0]) for step in single_rank]
    assert sorted(chain(*chain(*chain(*steps)))) == list(range(rows))
    sizes = [len(part) for step in steps for rank in step for part in rank]
    assert max(sizes) <= micro_batch


def test_the_order_of_rows_depends_on_the_epoch_and_the_sampler():
    first, second = (epoch(24, 8, 8, 1, epoch=n) for n in (0, 1))
    assert first == epoch(24, 8, 8, 1)
    assert first != second
    assert epoch(9, 4, 4, 1, sampler=SequentialSampler) == [[[[0, 1, 2, 3]]], [[[4, 5, 6, 7]]], [[[8]]]]
    assert len(epoch(23, 8, 8, 2, drop_last=True)) == 2


def test_batch_sizes_are_those_of_the_recipe():
    section = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 64}
    assert batch_sizes(SFTConfig, section) == (128, 2)
    assert batch_sizes(RewardConfig, {}) == (8, 8)
