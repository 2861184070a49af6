"""A process among others: the port at which they meet, and the memory that is its own."""

import errno
import os
import socket
import subprocess
import sys

import pytest
import torch

from engine.dist import ranks
from engine.errors import RunError

# A process larger than what it starts.
LARGE = """
import subprocess, sys
held = bytearray(b"x") * 1500_000_000
subprocess.run([sys.executable, "-c", "from engine.dist.devices import peak_memory as peak; print(peak())"], check=True)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def group(monkeypatch):
    """Two processes are said to have been launched; the port at which they are to meet."""
    monkeypatch.setattr(ranks, "_open_stores", [])
    port = free_port()
    for name, value in {"WORLD_SIZE": 2, "RANK": 0, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    return port


def test_the_first_process_holds_the_port_until_all_have_met(group):
    ranks.reserve_port()
    with socket.socket() as other, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        other.bind(("", group))
    first, second = (
        torch.distributed.TCPStore("127.0.0.1", group, 2, master, multi_tenant=True, wait_for_workers=False)
        for master in (True, False)
    )  # as torch does when they meet
    first.set("said", "by the first")
    assert second.get("said") == b"by the first"


def test_a_port_that_is_taken_is_said_at_once(group):
    with socket.socket() as other:
        other.bind(("", group))
        other.listen()
        with pytest.raises(RunError) as error:
            ranks.reserve_port()
    assert str(error.value) == (
        f"port {group}, which the processes need to connect, is taken by another program; run the same command "
        "again, or if your accelerate configuration sets main_process_port, change it"
    )


@pytest.mark.parametrize("other", [{"RANK": "1"}, {"WORLD_SIZE": "1"}, {"TORCHELASTIC_USE_AGENT_STORE": "True"}])
def test_nobody_else_does(group, monkeypatch, other):
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    ranks.reserve_port()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", group))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the peak is the GPU's")
def test_the_peak_is_not_that_of_who_started_the_process():
    assert 50e6 < int(subprocess.check_output([sys.executable, "-c", LARGE])) < 1400e6
