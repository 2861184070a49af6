"""Limits on memory, processes, time and files, for all processes of a session together."""

import threading
import time

import pytest

from sandbox import Limits
from sandbox.warden import children, descendants, proportional
from tests.unit.sandbox.conftest import is_busy, started

MIB = 2**20
LANDLOCK = {
    "disk": "files are in a folder of the host: only the size of each is limited",
    "inodes": "the same",
}
"""limits that do not hold at level landlock, and why"""


@pytest.fixture(scope="module")
def boxes():
    with started("namespaces") as namespaces, started("landlock") as landlock:
        yield {"namespaces": namespaces, "landlock": landlock}


@pytest.fixture(params=["namespaces", "landlock"])
def level(request):
    return request.param


class Meter:
    """Measures the memory of a process tree from outside, every few milliseconds, while it is open."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._over = threading.Event()
        self.found: list[tuple[float, int]] = []

    def __enter__(self) -> "Meter":
        self._thread = threading.Thread(target=self._measure)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _measure(self) -> None:
        while not self._over.wait(0.002):
            self.found.append((time.monotonic(), proportional(descendants(self._root))))

    def seconds_above(self, size: float) -> float:
        above = [moment for moment, found in self.found if found > size]
        return above[-1] - above[0] if above else 0.0


GROW = """
import os, time
for _ in range(PROCESSES):
    if os.fork() == 0:
        FIRST
        kept = []
        while True:
            kept.append(bytearray(b"x") * (8 << 20))
time.sleep(20)
"""


HIDE = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)"
"""Forbid other processes to look into this one (PR_SET_DUMPABLE)."""


@pytest.mark.parametrize(("processes", "first"), [(2, "pass"), (4, "pass"), (4, HIDE)])
def test_memory_of_all_processes(boxes, processes, first):
    """Each stays below the limit of one; together they are over it at once."""
    limit = 400 * MIB
    with boxes["namespaces"].session(limits=Limits(memory=limit)) as session:
        warden = children(boxes["namespaces"]._server.pid)[-1]
        with Meter(warden) as meter:
            result = session.run(GROW.replace("PROCESSES", str(processes)).replace("FIRST", first), 30)
    assert result.ended == "memory"
    assert result.error == f"killed: the processes used more than {limit:,} bytes of memory"
    assert len(meter.found) > 3
    assert meter.seconds_above(1.25 * limit) < (1 if is_busy() else 0.1)


def test_memory_of_one_process(boxes, level):
    with boxes[level].session(limits=Limits(memory=200 * MIB)) as session:
        result = session.run("kept = bytearray(b'x') * (1 << 30)", 30)
        assert (result.error, result.ended) == ("MemoryError", None)
        assert session.run("1").ok


def test_memory_that_is_shared_counts_once(boxes):
    """After fork, and in the moment of vfork, the same pages are in several processes."""
    with boxes["namespaces"].session(limits=Limits(memory=400 * MIB)) as session:
        assert session.run("kept = bytearray(b'x') * (250 << 20)").ok
        forks = "import os, time\nfor _ in range(5):\n    if os.fork() == 0:\n        time.sleep(20)\ntime.sleep(0.3)"
        assert session.run(forks).ok
        starts = "import subprocess\nfor _ in range(20):\n    subprocess.run(['/usr/bin/env', 'true'], check=True)"
        assert session.run(starts, 30).ok


SOCKETS = """
import os, socket, time
for _ in range(12):
    if os.fork() == 0:
        kept = [socket.socketpair() for _ in range(110)]
        for pair in kept:
            for each in pair:
                each.setblocking(False)
                try:
                    while True:
                        each.send(b"x" * 30000)
                except BlockingIOError:
                    pass
        time.sleep(20)
time.sleep(20)
"""


def test_memory_in_sockets(boxes):
    with boxes["namespaces"].session(limits=Limits(memory=400 * MIB)) as session:
        assert session.run(SOCKETS, 30).ended == "memory"
    with boxes["namespaces"].session() as session:
        assert session.run("import asyncio\nasync def f():\n    return 3\nasyncio.run(f())").value == "3"


FILL = """
import os
total = 0
try:
    for number in range(COUNT):
        with open(f"FOLDER/{number}", "wb") as file:
            total += file.write(bytes(SIZE))
except OSError as error:
    print(error.strerror)
total
"""


def fill(session, count, size, folder="."):
    code = FILL.replace("COUNT", str(count)).replace("SIZE", str(size)).replace("FOLDER", folder)
    result = session.run(code, 60)
    return int(result.value), result.stdout.strip()


@pytest.mark.parametrize("folder", [".", "/tmp", "/dev/shm"])
def test_disk(boxes, folder):
    with boxes["namespaces"].session(limits=Limits(disk=20 * MIB)) as session:
        total, error = fill(session, 40, MIB, folder)
        assert 18 * MIB <= total <= 20 * MIB
        assert error == "No space left on device"
        other = "/tmp" if folder == "." else "."
        assert fill(session, 1, MIB, other) == (0, "No space left on device")


def test_inodes(boxes):
    with boxes["namespaces"].session(limits=Limits(inodes=500)) as session:
        total, error = fill(session, 1000, 1)
        assert 480 < total <= 500
        assert error == "No space left on device"


def test_what_landlock_does_not_limit(boxes):
    with boxes["landlock"].session(limits=Limits(disk=MIB, inodes=50)) as session:
        assert fill(session, 100, MIB // 10) == (100 * (MIB // 10), "")
    assert set(LANDLOCK) == {"disk", "inodes"}


def test_size_of_a_file(boxes, level):
    with boxes[level].session(limits=Limits(file=MIB)) as session:
        assert fill(session, 1, 2 * MIB) == (0, "File too large")


FORKS = """
import os, time
made = 0
try:
    for _ in range(400):
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        made += 1
except OSError:
    pass
made
"""
THREADS = """
import threading, time
threading.stack_size(65536)
made = 0
try:
    for _ in range(4000):
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
        made += 1
        time.sleep(0.0005)
except RuntimeError:
    pass
made
"""


def test_processes(boxes, level):
    with boxes[level].session(limits=Limits(processes=20)) as session:
        made = int(session.run(FORKS, 60).value)
        assert made in ((17, 18, 19) if level == "namespaces" else (0,))


def test_threads(boxes, level):
    """As root whose Python only root may read, level landlock counts threads from outside and ends the session."""
    with boxes[level].session(limits=Limits(processes=20)) as session:
        result = session.run(THREADS, 60)
        assert result.ended == "died" or 10 < int(result.value) < 20


def test_cpu_time(boxes, level):
    with boxes[level].session(limits=Limits(cpu_seconds=1)) as session:
        result = session.run("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", 60)
        assert result.ended in ("timeout", "died")
        assert result.seconds < 50


def test_all_signals_ignored(boxes, level):
    ignore = "import signal\nfor n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\n"
    with boxes[level].session() as session:
        result = session.run(f"{ignore}while True: pass", 0.2)
        assert (result.ended, result.lost) == ("timeout", True)
