"""Distribute items over the ranks of a run, and gather the results.

After a gather every rank has the results of all items, in the same order as in a run with one rank. Functions marked
"collective" must be called by every rank, otherwise the ranks that call them wait forever. Without a process group
every function returns the result for one rank.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")


@dataclass
class WaitClock:
    """The seconds that this rank has waited for slower ranks."""

    seconds: float = 0.0


_running_clock: ContextVar[WaitClock | None] = ContextVar("running_clock", default=None)


@contextmanager
def count_waits() -> Iterator[WaitClock]:
    """Yield a clock that measures how long gathers within the block wait for slower ranks."""
    clock = WaitClock()
    token = _running_clock.set(clock)
    try:
        yield clock
    finally:
        _running_clock.reset(token)


def is_distributed() -> bool:
    """Return whether the run has more than one rank."""
    return dist.is_initialized() and dist.get_world_size() > 1


def take_share(items: Sequence[Item]) -> list[Item]:
    """Return this rank's items: those at positions rank, rank + n, rank + 2n, … with n ranks."""
    return list(items[dist.get_rank() :: dist.get_world_size()]) if is_distributed() else list(items)


def all_gather_items(mine: list[Item]) -> list[Item]:
    """Return the results of all ranks, one per item, in the order before `take_share` (collective).

    `mine` contains one picklable result for each item of this rank's share. Tensors must be on the CPU.
    """
    if not is_distributed():
        return mine
    began = time.perf_counter()
    dist.barrier()
    if clock := _running_clock.get():
        clock.seconds += time.perf_counter() - began
    parts: list[list[Item]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, mine)
    return [parts[at % len(parts)][at // len(parts)] for at in range(sum(map(len, parts)))]


def all_gather_ragged(mine: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """Gather concatenated rows of different lengths from all ranks, in the order of `all_gather_items` (collective).

    Args:
        mine: (…, total), this rank's rows concatenated along the last dimension, total = sum(lengths).
        lengths: lengths of this rank's rows.

    Returns:
        (…, total over all ranks), on the device of `mine`.
    """
    if not is_distributed():
        return mine
    here = mine.cpu()
    rows = list(here.split(list(lengths), -1)) if lengths else []
    return torch.cat([here[..., :0], *all_gather_items(rows)], -1).to(mine.device)


def max_over_ranks(count: int) -> int:
    """Return the largest of all ranks' counts (collective)."""
    if not is_distributed():
        return count
    counts: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(counts, count)
    return max(counts)
