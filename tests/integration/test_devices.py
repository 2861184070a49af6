"""The port over which ranks connect, and a process's own peak memory."""

import errno
import os
import socket
import subprocess
import sys

import pytest
import torch

from engine.dist import ranks
from engine.errors import RunError

# A large process that starts a small one.
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
    """Set the environment of rank 0 of two launched ranks; return the port over which they connect."""
    monkeypatch.setattr(ranks, "_open_stores", [])
    port = free_port()
    for name, value in {"WORLD_SIZE": 2, "RANK": 0, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    return port


def test_rank_0_reserves_the_port_until_all_ranks_are_connected(group):
    ranks.reserve_port()
    with socket.socket() as other, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
        other.bind(("", group))
    first, second = (
        torch.distributed.TCPStore("127.0.0.1", group, 2, master, multi_tenant=True, wait_for_workers=False)
        for master in (True, False)
    )  # as torch does when ranks connect
    first.set("key", "by the first")
    assert second.get("key") == b"by the first"


def test_a_port_in_use_is_reported_at_once(group):
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
def test_only_rank_0_of_several_ranks_without_an_agent_store_reserves_the_port(group, monkeypatch, other):
    for name, value in other.items():
        monkeypatch.setenv(name, value)
    ranks.reserve_port()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", group))


@pytest.mark.skipif(torch.cuda.is_available(), reason="peak_memory measures the GPU")
def test_peak_memory_does_not_include_the_parent_process():
    assert 50e6 < int(subprocess.check_output([sys.executable, "-c", LARGE])) < 1400e6
