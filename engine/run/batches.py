"""Batches that do not depend on the number of ranks: each rank takes its share of every global batch.

The order of rows is a function of the seed and the epoch. If the number of rows is not a multiple of the batch size,
the last batch of an epoch is smaller (with `dataloader_drop_last`, left out); no row is repeated. A rank without rows
gets an empty part and still runs the model (on one token, without effect), since ranks that exchange gradients or
weights wait for each other.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from engine.run.named_checkpoints import NamedCheckpoints


def batch_sizes(config_class: type[TrainingArguments], section: dict[str, Any]) -> tuple[int, int]:
    """Return (rows of an optimiser step over all ranks, rows of one forward pass) for a recipe's `trainer` section."""
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    micro_batch, times = (section.get(key, getattr(config_class, key)) for key in keys)
    return micro_batch * times, micro_batch


def accumulation_steps(batch: int, micro_batch: int, num_ranks: int) -> int:
    """Return how many forward passes, of at most `micro_batch` rows each, every rank makes per batch."""
    return -(-batch // (micro_batch * num_ranks))


def split_batch(rows: Sequence[int], num_ranks: int, parts: int) -> list[list[Sequence[int]]]:
    """Split a batch into consecutive slices of nearly equal length, indexed [rank][part]; the last may be empty."""
    least, longer = divmod(len(rows), num_ranks * parts)
    ends = [at * least + min(at, longer) for at in range(num_ranks * parts + 1)]
    runs = [rows[start:end] for start, end in pairwise(ends)]
    return [runs[rank::num_ranks] for rank in range(num_ranks)]


class RankBatches(BatchSampler):
    """Yield one rank's parts of every batch of an epoch; a part is one forward pass."""

    sampler: Any
    """yields the order of rows; has a length and, if it shuffles, a generator"""

    def __init__(self, sampler: Any, batch: int, seed: int, *, parts: int, num_ranks: int, rank: int, drop_last: bool):
        self.sampler, self.batch_size, self.seed, self.drop_last = sampler, batch, seed, drop_last
        self.parts, self.num_ranks, self.rank = parts, num_ranks, rank
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        # Only samplers that shuffle use it.
        self.sampler.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = list(self.sampler)
        for start in range(0, self._steps() * self.batch_size, self.batch_size):
            batch = order[start : start + self.batch_size]
            yield from map(list, split_batch(batch, self.num_ranks, self.parts)[self.rank])

    def __len__(self) -> int:
        return self._steps() * self.parts

    def _steps(self) -> int:
        rows = len(self.sampler)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)


class EpochLoader(DataLoader):
    """A DataLoader that passes the epoch on to its batch sampler."""

    batch_sampler: RankBatches

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class RankBatchTrainer(NamedCheckpoints):
    """A trainer that distributes each batch over the ranks. Its collator must accept an empty list of rows."""

    batch: int
    """rows of an optimiser step over all ranks"""

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        return self.batch

    def get_train_dataloader(self) -> DataLoader:
        args, sampler = self.args, self._get_train_sampler()
        if isinstance(sampler, LengthGroupedSampler):
            sampler.batch_size = self.batch
        batches = RankBatches(
            sampler, self.batch, args.seed, parts=args.gradient_accumulation_steps, num_ranks=args.world_size,
            rank=args.process_index, drop_last=args.dataloader_drop_last,
        )  # fmt: skip
        return EpochLoader(
            self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers, prefetch_factor=args.dataloader_prefetch_factor,
        )  # fmt: skip
