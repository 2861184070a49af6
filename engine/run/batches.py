"""A run's batches, the same for any number of ranks: each rank takes its share of every step's rows.

The order is a function of the seed and the epoch. Where the rows do not divide by the batch, none is repeated or left
out: the last batch of an epoch is smaller. A rank without rows has an empty part and still runs the model (on one
token, without effect), since ranks that exchange gradients or weights wait for each other.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Sampler
from transformers import TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from engine.run.named_checkpoints import NamedCheckpoints


def batch_of(config_class: type[TrainingArguments], section: dict[str, Any]) -> tuple[int, int]:
    """Return (rows of a step over all ranks, rows in one forward pass) of a recipe's `trainer` section."""
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    at_once, times = (section.get(key, getattr(config_class, key)) for key in keys)
    return at_once * times, at_once


def parts_a_step(batch: int, at_once: int, processes: int) -> int:
    """Return how many parts, of at most `at_once` rows, each rank takes of a batch."""
    return -(-batch // (at_once * processes))


def shares(rows: Sequence[int], processes: int, parts: int) -> list[list[Sequence[int]]]:
    """Return [rank][part] -> rows: consecutive runs, as even as possible; the last ones may be empty."""
    least, longer = divmod(len(rows), processes * parts)
    ends = [at * least + min(at, longer) for at in range(processes * parts + 1)]
    runs = [rows[start:end] for start, end in pairwise(ends)]
    return [runs[process::processes] for process in range(processes)]


class Batches(BatchSampler):
    """One rank's parts of every batch of an epoch, in turn."""

    def __init__(
        self, sampler: Sampler[int], batch: int, seed: int, *, parts: int, processes: int, process: int, drop_last: bool
    ):
        self.sampler, self.batch_size, self.seed, self.drop_last = sampler, batch, seed, drop_last
        self.parts, self.processes, self.process = parts, processes, process
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Sequence[int]]:
        # Used by samplers that shuffle, ignored by others.
        self.sampler.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = list(self.sampler)
        for start in range(0, self._steps() * self.batch_size, self.batch_size):
            yield from shares(order[start : start + self.batch_size], self.processes, self.parts)[self.process]

    def __len__(self) -> int:
        return self._steps() * self.parts

    def _steps(self) -> int:
        rows = len(self.sampler)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)


class Epochs(DataLoader):
    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)


class DealtBatches(NamedCheckpoints):
    """The part of a trainer that deals out rows; its collator must accept an empty list."""

    batch: int
    """rows of a step over all ranks"""

    def get_total_train_batch_size(self, args: TrainingArguments) -> int:
        return self.batch

    def get_train_dataloader(self) -> DataLoader:
        args, sampler = self.args, self._get_train_sampler()
        if isinstance(sampler, LengthGroupedSampler):
            sampler.batch_size = self.batch
        batches = Batches(
            sampler, self.batch, args.seed, parts=args.gradient_accumulation_steps, processes=args.world_size,
            process=args.process_index, drop_last=args.dataloader_drop_last,
        )  # fmt: skip
        return Epochs(
            self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers, pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers, prefetch_factor=args.dataloader_prefetch_factor,
        )  # fmt: skip
