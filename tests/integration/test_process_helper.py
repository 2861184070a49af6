"""The helper that other tests of several processes stand on sees what would make them worthless."""

import os
import signal

import pytest
from accelerate import Accelerator

from config import RecipeError
from tests.support.processes import MemberError, together


def who() -> tuple[int, int]:
    accelerator = Accelerator(cpu=True)
    return accelerator.process_index, accelerator.num_processes


def alone() -> tuple[int, int]:
    del os.environ["WORLD_SIZE"], os.environ["RANK"], os.environ["LOCAL_RANK"]
    return who()


def unsharded() -> tuple[int, int]:
    os.environ["ACCELERATE_USE_FSDP"] = "false"
    return who()


def mistaken(rank: int) -> None:
    if who()[0] == rank:
        raise RecipeError("a.jsonl:3: no such role")
    Accelerator().wait_for_everyone()


def killed() -> None:
    if who()[0] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def stuck() -> None:
    if who()[0] == 0:
        Accelerator().wait_for_everyone()
    else:
        signal.pause()


@pytest.mark.parametrize("hardware", ["ddp", "fsdp2"])
def test_processes_know_of_each_other(hardware):
    assert together(who, processes=3, hardware=hardware) == [(0, 3), (1, 3), (2, 3)]
    assert together(who, processes=1, hardware=hardware) == [(0, 1)]


def test_processes_that_each_believe_to_be_alone_are_found_out():
    with pytest.raises(MemberError, match=r"AssertionError: 2 processes, found \[\]"):
        together(alone)
    with pytest.raises(MemberError, match="AssertionError: ran as MULTI_CPU, not as fsdp2"):
        together(unsharded, hardware="fsdp2")


def test_what_becomes_of_a_process_that_fails():
    with pytest.raises(RecipeError, match=r"a\.jsonl:3: no such role"):
        together(mistaken, 0)
    with pytest.raises(MemberError, match="process 1 died"):
        together(killed)
    with pytest.raises(MemberError, match="no end after 2 s; finished: "):
        together(stuck, timeout=2)
