"""A seccomp filter: the kernel refuses system calls by number and arguments (Linux, seccomp_filter.rst)."""

import ctypes
import errno
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import sandbox.system_calls as calls
from sandbox.kernel import SYS_SECCOMP, system_call

# Classic BPF (linux/bpf_common.h): load a word; jump if equal, or greater or equal; mask; return.
LOAD, JUMP_EQUAL, JUMP_GREATER_EQUAL, MASK, RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""offsets in struct seccomp_data"""
X86_64 = 0xC000003E
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000
SET_MODE_FILTER = 1

NEW_NAMESPACES = 0x7E020000
CLONE_THREAD = 0x00010000
MAP_HUGETLB = 0x40000
PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1
SOCKET_TYPE_BITS = 0xF

# Of the operations on a descriptor those that Python and C libraries use. Others would send signals to any process
# (F_SETOWN, SIOCSPGRP), type into a terminal (TIOCSTI), change the flags of files, or make programs that open them wait
# (F_SETLEASE).
F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_GETOWN, F_OFD_GETLK, F_DUPFD_CLOEXEC, F_GETPIPE_SZ = (
    *range(6), 9, 36, 1030, 1032,
)  # fmt: skip
FCNTL_ALLOWED = (
    F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_GETOWN, F_OFD_GETLK, F_DUPFD_CLOEXEC, F_GETPIPE_SZ,
)  # fmt: skip
F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW = 6, 7, 37, 38
TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2 = (
    0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x802C542A,
)  # fmt: skip
IOCTL_ALLOWED = (TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, TCGETS2)
PR_SET_PDEATHSIG, PR_SET_SECCOMP = 1, 22
SIGNALS = {calls.OF_OWN_PROCESS_OUTSIDE_NAMESPACES[name] for name in ("kill", "tgkill", "rt_sigqueueinfo")}
SIGNALS.add(calls.OF_OWN_PROCESS_OUTSIDE_NAMESPACES["rt_tgsigqueueinfo"])
"""to process 0 they go to the whole process group"""


@dataclass(frozen=True)
class Argument:
    """A condition on the low 32 bits of one argument: equal to one of `values`, after masking with `mask`."""

    index: int
    values: tuple[int, ...]
    mask: int | None = None


def install(*, in_namespaces: bool, pid: int) -> None:
    """Filter this process and its children for good. `pid` is its own; no_new_privs must be set."""
    program = b"".join(build(in_namespaces=in_namespaces, pid=pid))
    buffer = ctypes.create_string_buffer(program)
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)))
    system_call("seccomp", SYS_SECCOMP, SET_MODE_FILTER, 0, head)


def build(*, in_namespaces: bool, pid: int) -> list[bytes]:
    """Return the instructions of the filter, 8 bytes each."""
    program = [
        _instruction(LOAD, ARCHITECTURE),
        _instruction(JUMP_EQUAL, X86_64, 1, 0),
        _instruction(RETURN, KILL),
        _instruction(LOAD, NUMBER),
        _instruction(JUMP_GREATER_EQUAL, calls.NEWEST + 1, 0, 1),  # also all of x32, from 2**30 on
        _instruction(RETURN, ERROR | errno.ENOSYS),
    ]
    program += _refuse(calls.ABSENT.values(), errno.ENOSYS)
    program += _refuse(calls.DENIED.values(), errno.EPERM)
    program += _refuse(calls.WITHOUT_EFFECT.values(), 0)
    own = [*calls.OF_OWN_PROCESS.values()]
    if not in_namespaces:
        program += _refuse(calls.DENIED_OUTSIDE_NAMESPACES.values(), errno.EPERM)
        program += _refuse(calls.WITHOUT_EFFECT_OUTSIDE_NAMESPACES.values(), 0)
        program += _refuse(calls.WITHOUT_SUPPORT_OUTSIDE_NAMESPACES.values(), errno.ENOTSUP)
        program += _refuse_unless(calls.CLONE, Argument(0, (CLONE_THREAD,), CLONE_THREAD))
        program += _refuse_unless(calls.GETPRIORITY, Argument(0, (PRIO_PROCESS,)))
        program += _refuse_unless(calls.GETPRIORITY, Argument(1, (0, pid)))
        program += _refuse_unless(calls.IOPRIO_GET, Argument(1, (0, pid)))
        own += calls.OF_OWN_PROCESS_OUTSIDE_NAMESPACES.values()
    for number in own:
        program += _refuse_unless(number, Argument(0, (pid,) if number in SIGNALS else (0, pid)))
    program += _refuse_unless(calls.CLONE, Argument(0, (0,), NEW_NAMESPACES))
    program += _refuse_unless(calls.MMAP, Argument(3, (0,), MAP_HUGETLB))  # counts for no process
    program += _refuse_unless(calls.SOCKETPAIR, Argument(0, (socket.AF_UNIX,)))
    # A datagram socket of a pair can send to any path; streams cannot.
    types = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
    program += _refuse_unless(calls.SOCKETPAIR, Argument(1, types, SOCKET_TYPE_BITS))
    program += _refuse_if(calls.FCNTL, Argument(1, (F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW)), 0)
    program += _refuse_unless(calls.FCNTL, Argument(1, FCNTL_ALLOWED))
    program += _refuse_unless(calls.IOCTL, Argument(1, IOCTL_ALLOWED))
    program += _refuse_if(calls.PRCTL, Argument(0, (PR_SET_PDEATHSIG, PR_SET_SECCOMP)), errno.EPERM)
    program += _refuse_unless(calls.SETPRIORITY, Argument(0, (PRIO_PROCESS,)))
    program += _refuse_unless(calls.SETPRIORITY, Argument(1, (0,)))
    program += _refuse_unless(calls.IOPRIO_SET, Argument(0, (IOPRIO_WHO_PROCESS,)))
    program += _refuse_unless(calls.IOPRIO_SET, Argument(1, (0,)))
    return [*program, _instruction(RETURN, ALLOW)]


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _refuse(numbers: Iterable[int], error: int) -> Iterable[bytes]:
    """Return `error` instead of making the calls; with 0 they do nothing and report success."""
    for number in numbers:
        yield _instruction(JUMP_EQUAL, number, 0, 1)
        yield _instruction(RETURN, ERROR | error)


def _refuse_unless(number: int, argument: Argument) -> list[bytes]:
    """Refuse a call with EPERM unless the condition holds."""
    return _if_number(number, argument, [], [_instruction(RETURN, ERROR | errno.EPERM)])


def _refuse_if(number: int, argument: Argument, error: int) -> list[bytes]:
    return _if_number(number, argument, [_instruction(RETURN, ERROR | error)], [])


def _if_number(number: int, argument: Argument, holds: list[bytes], fails: list[bytes]) -> list[bytes]:
    """For one call, continue with `holds` or with `fails`; exactly one of them is empty, the other returns."""
    check = [_instruction(LOAD, ARGUMENTS + 8 * argument.index)]
    if argument.mask is not None:
        check.append(_instruction(MASK, argument.mask))
    count = len(argument.values)
    for position, value in enumerate(argument.values):
        rest = count - position - 1
        is_last = rest == 0
        if holds:
            check.append(_instruction(JUMP_EQUAL, value, rest, 1 if is_last else 0))
        else:
            check.append(_instruction(JUMP_EQUAL, value, rest + 1, 0))
    check += holds or fails
    check.append(_instruction(LOAD, NUMBER))
    return [_instruction(JUMP_EQUAL, number, 0, len(check)), *check]
