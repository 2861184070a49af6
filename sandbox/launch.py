"""Start a session: fork its processes, from the outermost to the one that runs the code.

    fork server ── warden ── first process of the namespaces ── worker      (level namespaces)
    fork server ── warden ── worker                                         (levels landlock and none)

Nothing is executed anew, so the worker has the modules that the fork server has imported.
"""

import fcntl
import os
import select
import socket
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

import sandbox.confine as confine
import sandbox.folders as folders
import sandbox.kernel as kernel
import sandbox.mounts as mounts
import sandbox.protocol as protocol
import sandbox.worker as worker
from sandbox.confine import Confinement
from sandbox.protocol import Pipes
from sandbox.warden import Warden, children

REQUESTS, REPLIES, STDOUT, STDERR = 3, 4, 5, 6
"""descriptors of the worker; the last two are copies of 1 and 2, which code may close"""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_warden(confinement: Confinement, pipes: Pipes, supervisor: int) -> None:
    """Start the session and watch over it until its end. Runs in a new child of the fork server.

    confinement.base: folder in which that of this session is made
    supervisor: a descriptor of that process (pidfd), or -1
    """
    os.setsid()
    kernel.die_with_parent()
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    _close_all_but({0, 1, 2, *vars(pipes).values(), supervisor} - {-1})
    folder = ""
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            raise OSError("/proc belongs to another PID namespace; run: mount -t proc proc /proc")
        if confinement.level != "namespaces":
            folder = tempfile.mkdtemp(dir=confinement.base)
            confinement = replace(confinement, base=folder)
        address_space = confine.address_space()
        if confinement.level == "namespaces":
            uid = confine.enter_namespaces(confinement)
        else:
            uid = confine.own_uid(confinement) if confinement.level == "landlock" else os.geteuid()
            _make_folders(confinement, uid)
        kernel.die_with_parent()
        alive, ours = os.pipe()  # readable as soon as this process has ended
        first = os.fork()
        if first == 0:
            os.close(ours)
            _run_first(confinement, pipes, uid, address_space, alive)
        for descriptor in (alive, pipes.requests, pipes.replies, pipes.stdout, pipes.stderr):
            os.close(descriptor)
        if (found := _worker_of(first, confinement)) is not None:
            Warden(first, found, confinement.limits, pipes.orders, pipes.status, supervisor).watch()
    except OSError as error:
        fail(pipes.replies, error)
    finally:
        if folder:
            folders.remove(folder)


def _make_folders(confinement: Confinement, owner: int) -> None:
    os.chmod(confinement.base, 0o711)
    for folder in (confinement.home, confinement.temporary):
        os.mkdir(folder, 0o700)
        if owner != os.geteuid():
            os.chown(folder, owner, owner)


def _worker_of(first: int, confinement: Confinement) -> int | None:
    """Return the process that runs the code, before it has run any; None if it was never started."""
    if confinement.level != "namespaces":
        return first
    while not (found := children(first)):
        if os.waitid(os.P_PID, first, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return None
        select.select([], [], [], 0.001)
    return found[0]


def _run_first(confinement: Confinement, pipes: Pipes, uid: int, address_space: int, alive: int) -> NoReturn:
    """Run the child of the warden."""
    replies = pipes.replies
    try:
        kernel.die_with_parent()
        if confinement.level == "namespaces":
            kernel.unshare(kernel.CLONE_NEWNS)
            socket.sethostname("sandbox")
            mounts.enter(confinement.python, confinement.limits, uid)
            child = os.fork()
            if child != 0:
                _reap_until_end(child)
        os.setsid()
        confine.become(uid)
        if select.select([alive], [], [], 0)[0] or (confinement.level == "namespaces" and os.getppid() != 1):
            os._exit(1)  # the parent ended before this process asked to end with it
        _place(pipes)
        replies = REPLIES
        _set_environment(confinement)
        has_own_uid = confinement.level == "namespaces" or uid >= confine.FIRST_UID
        confine.set_limits(confinement.limits, address_space, count_processes=has_own_uid)
        confine.shut_in(confinement)
    except BaseException as error:
        fail(replies, error)
        os._exit(1)
    worker.serve(REQUESTS, REPLIES, STDOUT, STDERR)


def _reap_until_end(child: int) -> NoReturn:
    """Reap orphans, as the first process of a PID namespace must; end with the worker, and all others with it."""
    _close_all_but(())
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _place(pipes: Pipes) -> None:
    """Move the pipes to the descriptors at which the worker expects them, and close all others."""
    targets = {1: pipes.stdout, 2: pipes.stderr, REQUESTS: pipes.requests, REPLIES: pipes.replies}
    targets |= {0: os.open("/dev/null", os.O_RDONLY), STDOUT: pipes.stdout, STDERR: pipes.stderr}
    # First out of the way, so that none is overwritten before it has been moved.
    moved = {target: fcntl.fcntl(source, fcntl.F_DUPFD, 100) for target, source in targets.items()}
    for target, source in moved.items():
        os.dup2(source, target, inheritable=target <= 2)
    _close_all_but(targets)


def _close_all_but(kept: Iterable[int]) -> None:
    low = 0
    for descriptor in [*sorted(kept), os.sysconf("SC_OPEN_MAX")]:
        if low < descriptor:  # closerange(0, 0) closes everything
            os.closerange(low, descriptor)
        low = descriptor + 1


def _set_environment(confinement: Confinement) -> None:
    os.chdir(confinement.home)
    os.environ.clear()
    os.environ.update(dict.fromkeys(THREADS, "1"))
    os.environ.update(HOME=confinement.home, TMPDIR=confinement.temporary, PATH="/usr/bin:/bin", LANG="C.UTF-8")
    os.environ.update(MPLBACKEND="agg", MPLCONFIGDIR=f"{confinement.temporary}/matplotlib")
    tempfile.tempdir = None
    if (random := sys.modules.get("numpy.random")) is not None:
        random.seed()  # else all sessions, forks of one process, would draw the same numbers
    sys.path.insert(0, confinement.home)


def fail(replies: int, error: BaseException) -> None:
    with suppress(OSError):
        protocol.send(replies, {"failed": str(error) or type(error).__name__})
