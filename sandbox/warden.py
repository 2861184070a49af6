"""The process outside that watches over one session: its memory, its end, and orders from the supervisor.

It reads nothing that the confined processes write. It ends with the session, and the session ends with it, even after
SIGKILL.
"""

import json
import os
import resource
import select
import signal
import socket
from contextlib import suppress

import sandbox.kernel as kernel
from sandbox.limits import Limits

INTERRUPT, KILL = b"i", b"k"
"""orders: SIGINT to the process that runs the code; SIGKILL to all"""
INTERVAL = 0.02
"""seconds between two looks at the memory"""
PAGE = resource.getpagesize()


def children(pid: int) -> list[int]:
    """Return the children of a process, of all its threads; none if it has ended."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split()]
    return found


def threads(pid: int) -> int:
    """Return the number of threads of a process; 0 if it has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return len(os.listdir(f"/proc/{pid}/task"))
    return 0


def descendants(pid: int) -> list[int]:
    """Return a process and all below it."""
    found, pending = [], [pid]
    while pending:
        found.append(pending.pop())
        pending += children(found[-1])
    return found


def resident(pids: list[int]) -> int:
    """Return the bytes of resident memory; what processes share counts once for each."""
    total = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/statm") as file:
            total += int(file.read().split()[1]) * PAGE
    return total


def proportional(pids: list[int]) -> int:
    """Return the bytes of resident memory; what processes share is divided among them. Slower than `resident`."""
    total, counted = 0, list[int]()
    for pid in pids:
        if any(kernel.shares_memory(pid, other) for other in counted):
            continue  # vfork: until the child executes a program, all it has is its parent's
        counted.append(pid)
        try:
            with open(f"/proc/{pid}/smaps_rollup") as file:
                total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
        except PermissionError:  # the code has forbidden it (PR_SET_DUMPABLE)
            total += resident([pid])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total


def socket_memory() -> int:
    """Return the bytes that the sockets of this network namespace can hold: they count for no process."""
    with socket.socketpair()[0] as one:
        bytes_each = one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    with open("/proc/self/net/sockstat") as file:
        number = int(file.readline().removeprefix("sockets: used"))
    return number * bytes_each


class Warden:
    """Watches the process tree below `first`.

    first: the first process, a child of this one
    worker: the process that runs the code: `first`, or its child at level namespaces
    orders, status: pipes from and to the supervisor
    supervisor: a descriptor of that process (pidfd), or -1: its forks may hold the pipes open when it is gone
    """

    def __init__(self, first: int, worker: int, limits: Limits, orders: int, status: int, supervisor: int) -> None:
        self.first = first
        self.worker = worker
        self.limits = limits
        self.orders = orders
        self.status = status
        self.supervisor = supervisor

    def watch(self) -> None:
        """Return when no process is left, after reporting the end to the supervisor."""
        self.report({"worker": self.worker})
        ended = "died"
        while True:
            ready, _, _ = select.select({self.orders, self.supervisor} - {-1}, [], [], INTERVAL)
            if self.supervisor in ready:
                break
            if ready:
                if os.read(self.orders, 1) != INTERRUPT:  # KILL, or the supervisor is gone
                    break
                with suppress(ProcessLookupError):
                    os.kill(self.worker, signal.SIGINT)
                self.report({"interrupted": True})
            if self.has_ended():
                break
            if self.exceeds_processes():
                break
            if self.exceeds_memory():
                ended = "memory"
                break
        code = self.kill()
        self.report({"ended": ended, "code": code})

    def has_ended(self) -> bool:
        """Return whether the first process has ended; it is not reaped yet."""
        return os.waitid(os.P_PID, self.first, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def exceeds_processes(self) -> bool:
        """Return whether there are too many threads. The kernel does not count them at landlock, nor those of uid 0."""
        others = 0 if self.first == self.worker else 1
        return sum(map(threads, descendants(self.first))) > self.limits.processes + others

    def exceeds_memory(self) -> bool:
        pids = descendants(self.first)
        limit = self.limits.memory
        if self.first != self.worker:  # level namespaces: all sockets in sight are the session's
            limit -= socket_memory()
        return resident(pids) > limit and proportional(pids) > limit

    def kill(self) -> int:
        """Kill all processes, wait until they are gone, and return the exit code of the first, negative for a signal.

        At level namespaces all end with the first, at level landlock there are no others; at level none orphans become
        children of this process, a subreaper.
        """
        code = 0
        while True:
            for pid in children(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                return code
            if pid == self.first:
                code = os.waitstatus_to_exitcode(status)

    def report(self, message: dict[str, object]) -> None:
        with suppress(BrokenPipeError):
            os.write(self.status, json.dumps(message).encode() + b"\n")
