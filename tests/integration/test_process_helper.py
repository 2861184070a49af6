"""tests/support/processes.py notices ranks that are not connected or not sharded, that fail, die or hang."""

import os
import signal

import pytest
from accelerate import Accelerator

from config import RecipeError
from tests.support.processes import RankError, run_on_ranks


def rank_and_world_size() -> tuple[int, int]:
    accelerator = Accelerator(cpu=True)
    return accelerator.process_index, accelerator.num_processes


def unconnected() -> tuple[int, int]:
    del os.environ["WORLD_SIZE"], os.environ["RANK"], os.environ["LOCAL_RANK"]
    return rank_and_world_size()


def unsharded() -> tuple[int, int]:
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    return rank_and_world_size()


def raise_on(rank: int) -> None:
    if rank_and_world_size()[0] == rank:
        raise RecipeError("a.jsonl:3: no such role")
    Accelerator().wait_for_everyone()


def die() -> None:
    if rank_and_world_size()[0] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def hang() -> None:
    if rank_and_world_size()[0] == 0:
        Accelerator().wait_for_everyone()
    else:
        signal.pause()


@pytest.mark.parametrize("hardware", ["ddp", "fsdp2"])
def test_every_rank_knows_its_rank_and_the_number_of_ranks(hardware):
    assert run_on_ranks(rank_and_world_size, processes=3, hardware=hardware) == [(0, 3), (1, 3), (2, 3)]
    assert run_on_ranks(rank_and_world_size, processes=1, hardware=hardware) == [(0, 1)]


def test_ranks_that_are_not_connected_or_not_sharded_are_reported():
    with pytest.raises(RankError, match=r"AssertionError: 2 ranks, found \[\]"):
        run_on_ranks(unconnected)
    with pytest.raises(RankError, match="AssertionError: ran as MULTI_CPU, not as fsdp2"):
        run_on_ranks(unsharded, hardware="fsdp2")


def test_an_error_a_death_and_a_timeout_of_a_rank_are_reported():
    with pytest.raises(RecipeError, match=r"a\.jsonl:3: no such role"):
        run_on_ranks(raise_on, 0)
    with pytest.raises(RankError, match="rank 1 died"):
        run_on_ranks(die)
    with pytest.raises(RankError, match="not finished after 2 s; finished ranks: "):
        run_on_ranks(hang, timeout=2)
