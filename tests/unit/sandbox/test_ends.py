"""What is left when processes of a sandbox are killed, when sessions end, and after a fork: nothing."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sandbox import Sandbox, SandboxError
from sandbox.warden import children, descendants
from tests.support.paths import ROOT
from tests.support.users import run_as
from tests.unit.sandbox.conftest import is_busy

LEVELS = ("namespaces", "landlock")
SUPERVISOR = """
import glob, os, sys, time
from sandbox import Sandbox
box = Sandbox(sys.argv[1], preload=())
sessions = [box.session() for _ in range(3)]
for session in sessions:
    session.run("open('file', 'w').write('x')")
    if box.level == "namespaces":  # a daemon, and one that ignores all signals
        session.run('''
import os, signal, subprocess, time
subprocess.Popen(["sleep", "300"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in set(range(1, 65)) - {9, 19, 32, 33}:
            signal.signal(number, signal.SIG_IGN)
        time.sleep(300)
    os._exit(0)
''')
fork = os.fork()  # holds all descriptors open
if fork == 0:
    time.sleep(300)
print(fork, flush=True)
time.sleep(300)
"""


@pytest.fixture(params=LEVELS)
def level(request):
    return request.param


@pytest.fixture(scope="module")
def boxes():
    """Return a function that returns the sandbox of a level."""
    found: dict[str, Sandbox] = {}

    def box(level):
        if level not in found:
            found[level] = Sandbox(level, preload=())
        return found[level]

    yield box
    for each in found.values():
        each.close()


class Supervisor:
    """A process that has sessions, and a fork of it. pids: all processes of its sandbox, the fork server first."""

    def __init__(self, level: str) -> None:
        command = [sys.executable, "-c", SUPERVISOR, level]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.fork = int(self.process.stdout.readline())
        self.server = next(pid for pid in children(self.process.pid) if pid != self.fork)
        self.pids = descendants(self.server)
        self.folder = next(
            word for word in Path(f"/proc/{self.server}/cmdline").read_text().split("\0") if "/sandbox-" in word
        )

    def close(self) -> None:
        os.kill(self.fork, signal.SIGKILL)
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)  # left if the supervisor and the fork server were both killed


@pytest.fixture
def supervisor(level):
    found = Supervisor(level)
    yield found
    found.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def alive_after(pids: list[int]) -> list[str]:
    """Return those that have not ended within a second, or ten on a busy machine."""
    deadline = time.monotonic() + (10 if is_busy() else 1)
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [Path(f"/proc/{pid}/status").read_text()[:200] for pid in pids if is_alive(pid)]


def test_nothing_outlives_the_supervisor(supervisor, level):
    assert len(supervisor.pids) >= (16 if level == "namespaces" else 7)
    assert os.path.isdir(supervisor.folder)
    os.kill(supervisor.process.pid, signal.SIGKILL)
    assert alive_after(supervisor.pids) == []
    assert not os.path.exists(supervisor.folder)


def test_no_session_outlives_the_fork_server(supervisor):
    os.kill(supervisor.server, signal.SIGKILL)
    assert alive_after(supervisor.pids) == []
    assert is_alive(supervisor.process.pid)


def test_no_process_outlives_its_warden(supervisor):
    warden = children(supervisor.server)[0]
    pids = descendants(warden)
    os.kill(warden, signal.SIGKILL)
    assert alive_after(pids) == []
    assert len(children(supervisor.server)) >= 2


def test_a_sandbox_whose_server_is_killed_can_be_closed(level):
    with Sandbox(level, preload=()) as box:
        folder = box._folder
        with box.session() as session:
            session.run("open('file', 'w').write('x')")
            pids = descendants(box._server.pid)
            os.kill(pids[0], signal.SIGKILL)
            assert alive_after(pids) == []
            assert session.run("1").ended == "died"
        with pytest.raises(SandboxError, match="the sandbox is closed, or its server has ended"):
            box.session()
    assert not os.path.exists(folder)


def test_a_session_whose_process_is_killed_says_so(boxes, level):
    with boxes(level).session() as session:
        assert session.run("import os; os.kill(os.getpid(), 9)").ended == "died"
        with pytest.raises(SandboxError, match="the session is over"):
            session.run("1")


def test_a_closed_sandbox_leaves_no_process_file_mount_or_descriptor(level):
    def left():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), Path("/proc/self/mountinfo").read_text(), children(os.getpid())

    before = left()
    with Sandbox(level, preload=()) as box:
        folder = box._folder
        for _ in range(200):
            with box.session() as session:
                assert session.run("open('a', 'w').write('x')").ok
        assert alive_after(children(children(os.getpid())[-1])) == []
        assert os.listdir(folder) == []
    assert left() == before
    assert not os.path.exists(folder)


def test_hostile_folders_are_removed(level):
    """Deeper than Python can recurse or a path can be long; without any rights."""
    with Sandbox(level, preload=()) as box:
        folder = box._folder
        with box.session() as session:
            result = session.run(
                "import os\nfor _ in range(3000):\n    os.mkdir('d' * 9)\n    os.chdir('d' * 9)\nos.mkdir('closed', 0)"
            )
            assert result.ok, result
        deadline = time.monotonic() + 5
        while os.listdir(folder) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert os.listdir(folder) == []
    assert not os.path.exists(folder)


@pytest.mark.parametrize("who", ["root", "user"])
def test_folders_that_are_closed_to_their_owner_are_removed(who):
    script = """
import os, tempfile
from sandbox.folders import remove
folder = tempfile.mkdtemp()
os.makedirs(f"{folder}/a/b")
open(f"{folder}/a/b/c", "w").close()
os.chmod(f"{folder}/a/b", 0)
os.mkdir(f"{folder}/a/d", 0)
os.symlink("/usr", f"{folder}/a/link")
os.chmod(f"{folder}/a", 0)
remove(folder)
print(os.path.exists(folder))
"""
    assert run_as(who, "-c", script).stdout == "False\n"


def test_several_sessions_at_once(boxes, level):
    box, values = boxes(level), {}

    def use(number):
        for turn in range(3):
            with box.session({"name": str(number).encode()}) as session:
                session.run("text = open('name').read()")
                values[number, turn] = session.run("text").value

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert values == {(number, turn): f"'{number}'" for number in range(8) for turn in range(3)}


def test_a_fork_can_neither_use_nor_end_a_sandbox(boxes):
    box = boxes("landlock")
    with box.session() as session:
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                box.session()
            except SandboxError as error:
                os.write(theirs, str(error).encode())
            box.close()
            os._exit(0)
        os.waitpid(pid, 0)
        assert os.read(ours, 1000) == b"this Sandbox belongs to another process; create one in this process"
        assert session.run("1 + 1").value == "2"
        os.close(ours)
        os.close(theirs)


def test_a_server_that_cannot_start_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr("sandbox.box.START", "raise RuntimeError('no such luck')")
    with pytest.raises(SandboxError, match=r"^the fork server did not start: RuntimeError: no such luck$"):
        Sandbox(preload=())
    monkeypatch.setattr("sandbox.box.START", "import time; time.sleep(60)")
    monkeypatch.setattr("sandbox.box.SERVER_SECONDS", 0.2)
    with pytest.raises(SandboxError, match=r"^the fork server did not start: it was not ready after 0\.2 s"):
        Sandbox(preload=("numpy",))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(SandboxError, match=r"^the fork server did not start: .*No such file"):
        Sandbox(preload=())
