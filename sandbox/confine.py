"""How a process shuts itself in. Each function is one step, applied to the calling process for good."""

import os
import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sandbox.kernel as kernel
import sandbox.landlock as landlock
import sandbox.mounts as mounts
import sandbox.seccomp as seccomp
from sandbox.limits import Limits

Level = Literal["namespaces", "landlock", "none"]

OPEN_FILES = 256
NAMESPACES = (
    kernel.CLONE_NEWPID | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
)
"""all but those of mounts and users"""
INSIDE_UID = 1000
"""uid inside a user namespace"""
FIRST_UID = 2_000_000_000
"""As root a session gets a uid of its own: this plus a PID, so that no two have the same."""


@dataclass(frozen=True)
class Confinement:
    """What a session is confined to."""

    level: Level
    limits: Limits
    python: tuple[str, ...]
    """folders that Python reads its modules from"""
    base: str = ""
    """folder that the code's own folders are in: one of the host's at the levels landlock and none"""

    @property
    def home(self) -> str:
        """The working directory of the code."""
        return f"{self.base}{mounts.HOME}"

    @property
    def temporary(self) -> str:
        return f"{self.base}/tmp"


def has_capabilities(*numbers: int) -> bool:
    """Return whether this process has all of these capabilities. Root in a container may lack some."""
    with open("/proc/self/status") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    return all(effective >> number & 1 for number in numbers)


def can_change_user() -> bool:
    """Return whether this is root, with the rights to run code as another user and to end it.

    Root of a user namespace that has few users (a rootless container) is not.
    """
    if os.geteuid() != 0 or not has_capabilities(*kernel.TO_CHANGE_USER):
        return False
    with open("/proc/self/uid_map") as file:
        ranges = [[int(number) for number in line.split()] for line in file]
    return any(first <= FIRST_UID and first + count > FIRST_UID + 2**22 for first, _, count in ranges)


def is_open_to_others(paths: Iterable[str]) -> bool:
    """Return whether users other than root may enter the folders that lead to these paths."""
    both = [each for path in paths for each in (path, os.path.realpath(path))]
    parents = {parent for path in both for parent in Path(path).parents}
    return all(os.stat(parent).st_mode & 0o001 for parent in parents)


def own_uid(confinement: "Confinement") -> int:
    """Return the uid that a session runs under without a user namespace: one of its own if possible."""
    if can_change_user() and is_open_to_others(confinement.python):
        return FIRST_UID + os.getpid()
    return os.geteuid()


def enter_namespaces(confinement: "Confinement") -> int:
    """Enter new namespaces, and return the uid that code is to run under. The next child is their first process."""
    if can_change_user() and has_capabilities(kernel.CAP_SYS_ADMIN):
        kernel.unshare(NAMESPACES)
        return FIRST_UID + os.getpid()
    become(own_uid(confinement))  # of uid 0 the kernel would not limit the processes
    uid, gid = os.geteuid(), os.getegid()
    kernel.unshare(NAMESPACES | kernel.CLONE_NEWUSER)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE_UID} {uid} 1"),
        ("gid_map", f"{INSIDE_UID} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    return INSIDE_UID


def become(uid: int) -> None:
    """Take a uid and the gid of the same number, and leave all groups."""
    if os.geteuid() != uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # cleared with the uid; without it /proc/PID belongs to root
    kernel.die_with_parent()  # cleared as well


def set_limits(limits: Limits, address_space: int, *, count_processes: bool) -> None:
    """Set the limits of one process. Those of all processes together are watched by the warden.

    count_processes: whether the uid has no other processes
    address_space: what the process has before it runs any code, in bytes
    """
    bounds = {
        resource.RLIMIT_AS: limits.memory + address_space,
        resource.RLIMIT_FSIZE: limits.file,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 256,
        resource.RLIMIT_RTPRIO: 0,
    }
    if count_processes:
        bounds[resource.RLIMIT_NPROC] = limits.processes
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, bound))
    if limits.cpu_seconds is not None:  # at the first number SIGXCPU, which tells the warden why; at the second SIGKILL
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))


def address_space() -> int:
    """Return the bytes of address space of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def shut_in(confinement: Confinement) -> None:
    """Give up all privileges and what is left of access to files, system calls and other processes.

    The last step before untrusted code.
    """
    if confinement.level == "none":
        return
    kernel.drop_capabilities()
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    in_namespaces = confinement.level == "namespaces"
    present = landlock.version()
    if in_namespaces:
        readable: Sequence[str] = ("/",)
        writable: Sequence[str] = (*mounts.WRITABLE, *mounts.DEVICES)
    else:
        readable = (*mounts.SYSTEM, *confinement.python)
        writable = (confinement.base, *mounts.DEVICES)
    if present >= landlock.OLDEST:
        landlock.restrict(readable, writable, present=present)
    elif not in_namespaces:
        raise OSError(f"Landlock version {landlock.OLDEST} (Linux 6.2) is needed; this kernel has version {present}")
    seccomp.install(in_namespaces=in_namespaces, pid=os.getpid())
