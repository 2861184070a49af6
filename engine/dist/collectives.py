"""What the processes of a run do together: each takes its share of some items, and all learn what came of the whole.

What is computed from the whole is then the same in every process, and the same as in a run of one process.
"""

import time
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

Item = TypeVar("Item")


class Waiting:
    """How long this process has waited for others before an exchange, in seconds."""

    seconds = 0.0


def is_distributed() -> bool:
    """Whether there is more than one process."""
    return dist.is_initialized() and dist.get_world_size() > 1


def take_share(items: Sequence[Item]) -> list[Item]:
    """This process's part, dealt out in turn."""
    return list(items[dist.get_rank() :: dist.get_world_size()]) if is_distributed() else list(items)


def all_gather_items(mine: list[Item]) -> list[Item]:
    """What all processes made of their shares, an item each, in the order of the whole. Tensors must be the CPU's."""
    if not is_distributed():
        return mine
    began = time.perf_counter()
    dist.barrier()
    Waiting.seconds += time.perf_counter() - began
    parts: list[list[Item]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, mine)
    return [parts[at % len(parts)][at // len(parts)] for at in range(sum(map(len, parts)))]


def all_gather_ragged(mine: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """The same of (…, total) values that belong to rows of these lengths, end to end."""
    if not is_distributed():
        return mine
    here = mine.cpu()
    rows = list(here.split(list(lengths), -1)) if lengths else []
    return torch.cat([here[..., :0], *all_gather_items(rows)], -1).to(mine.device)


def max_over_ranks(count: int) -> int:
    """The largest of all processes' counts; all of them must ask."""
    if not is_distributed():
        return count
    counts: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(counts, count)
    return max(counts)
