"""Supervisors that are in an unusual state: many open descriptors, blocked signals, files that are too large."""

import os
import resource
import signal

import pytest

from sandbox import Limits
from sandbox.protocol import LARGEST
from tests.unit.sandbox.conftest import started


def test_files_that_are_too_large_leave_nothing_behind(best_box):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match="bytes"):
        best_box.session(files={"large": bytes(LARGEST)})
    assert len(os.listdir("/proc/self/fd")) == before
    with best_box.session() as session:
        assert session.run("1").value == "1"


def test_signals_that_the_supervisor_blocks_or_ignores():
    signals = {signal.SIGINT, signal.SIGXCPU, signal.SIGTERM}
    ignored = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        box = started("auto")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGCHLD, ignored)
    with box, box.session(limits=Limits(cpu_seconds=1)) as session:
        result = session.run("while True: pass", timeout=0.2)
        assert (result.ended, result.lost) == ("timeout", False)
        assert session.run("while True: pass", timeout=20).ended == "timeout"


def test_more_than_1024_open_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("needs 2,048 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
    opened = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        with started("auto") as box, box.session() as session:
            assert session.run("1 + 1").value == "2"
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_sessions_draw_different_random_numbers():
    pytest.importorskip("numpy")
    code = "import numpy, random\nnumpy.random.rand(), random.random()"
    with started("auto", ("numpy", "numpy.random")) as box:
        drawn = set()
        for _ in range(2):
            with box.session() as session:
                drawn |= set(session.run(code).value.strip("()").split(", "))
    assert len(drawn) == 4
