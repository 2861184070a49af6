"""The fork server: a process that imports what code is likely to need, once, and forks a session at each request.

Started by sandbox/box.py in a clean environment, with a socket. Its first line on that socket is
{"ready": [modules]}; after that every message of the other side is {"level", "limits", "python"} with the six
descriptors of Pipes.
"""

import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from dataclasses import fields
from typing import Any

import sandbox.folders as folders
import sandbox.launch as launch
from sandbox.confine import Confinement
from sandbox.limits import Limits
from sandbox.protocol import Pipes

LONGEST = 2**16
"""bytes of the longest request"""


def main(descriptor: int, parent: int, folder: str, modules: list[str]) -> None:
    """Import `modules`, those that are installed, and serve the socket `descriptor` until the other side closes it.

    parent: PID of the supervisor. When it is gone this ends, even if a fork of it holds the socket open
    folder: where sessions make folders of their own; removed at the end
    """
    # What the supervisor has blocked or ignores would otherwise be so in every session.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGCHLD, signal.SIGXCPU, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=descriptor)
    supervisor = _descriptor_of(parent)
    ready = preload(modules)
    control.sendall(json.dumps({"ready": ready}).encode() + b"\n")
    poll = select.poll()  # select takes no descriptors above 1,023
    for watched in {descriptor, supervisor} - {-1}:
        poll.register(watched, select.POLLIN)
    while True:
        readable = [ready for ready, _ in poll.poll(1000)]
        _reap()
        if supervisor in readable:
            break
        with suppress(BlockingIOError):
            data, pipes, _, _ = socket.recv_fds(control, LONGEST, len(fields(Pipes)), socket.MSG_DONTWAIT)
            if not data:
                break
            _start(json.loads(data) | {"folder": folder}, Pipes(*pipes), supervisor)
    # Each warden sees that its supervisor is gone, and ends its session: this process must not end before them.
    with suppress(ChildProcessError):
        while True:
            os.wait()
    folders.remove(folder)


def _descriptor_of(parent: int) -> int:
    """Return a descriptor that is readable as soon as the supervisor has ended; -1 if the kernel refuses one."""
    try:
        descriptor = os.pidfd_open(parent)
    except OSError:
        return -1
    if os.getppid() != parent:  # it ended before, and its number may be another's
        sys.exit()
    return descriptor


def preload(modules: list[str]) -> list[str]:
    """Import the modules that are installed, and return their names. The first figure is drawn here: it is slow."""
    ready = []
    for module in modules:
        with suppress(ImportError):
            importlib.import_module(module)
            ready.append(module)
    if "matplotlib.pyplot" in ready:
        import io

        from matplotlib import pyplot

        pyplot.figure().gca().plot([0, 1])
        pyplot.savefig(io.BytesIO(), format="png")
        pyplot.close("all")
    return ready


def _start(request: dict[str, Any], pipes: Pipes, supervisor: int) -> None:
    base = "" if request["level"] == "namespaces" else request["folder"]
    confinement = Confinement(request["level"], Limits(**request["limits"]), tuple(request["python"]), base)
    try:
        pid = os.fork()
    except OSError as error:
        launch.fail(pipes.replies, error)
        pid = -1
    if pid == 0:
        try:
            launch.run_warden(confinement, pipes, supervisor)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    for descriptor in vars(pipes).values():
        os.close(descriptor)


def _reap() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
