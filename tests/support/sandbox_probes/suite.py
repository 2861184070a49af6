"""The list of probes, and the names that all of them may use.

A probe is a function of `there` (World.facts) whose source is sent to a session. It is judged by JUDGES, from outside
where that can be: whether a planted file changed, the victim ended, a listener was reached. Where only the code can
know, it returns the planted secret, or True for "the kernel would have done it". What it raises counts as failed.
"""

import ctypes
import errno
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Judge = Literal["token", "true", "changes", "marks", "harm", "reached", "ended", "take"]

PRELUDE = """
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, stat, struct, subprocess, sys, threading, time
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
"""


@dataclass(frozen=True)
class Probe:
    name: str
    judge: Judge
    code: str
    """defines the function of this name"""


PROBES: dict[str, Probe] = {}
Attempt = Callable[[dict[str, Any]], object]


def probe(judge: Judge) -> Callable[[Attempt], Attempt]:
    """Add a function to PROBES."""

    def add(function: Attempt) -> Attempt:
        source = inspect.getsource(function)
        code = source[source.index("def ") :]
        assert function.__name__ not in PROBES
        PROBES[function.__name__] = Probe(function.__name__, judge, code)
        return function

    return add


def call(number, *arguments):
    """Call the kernel by number; return (result, errno)."""
    ctypes.set_errno(0)
    converted = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return libc.syscall(ctypes.c_long(number), *converted), ctypes.get_errno()


def arrives(number, *arguments):
    """Return whether a call gets as far as the kernel's own checks of its arguments, which are such that it fails."""
    result, error = call(number, *arguments)
    return result >= 0 or error not in REFUSED


libc = ctypes.CDLL(None, use_errno=True)
REFUSED = (errno.EPERM, errno.EACCES, errno.ENOSYS)
HELPERS = "\n".join(inspect.getsource(function) for function in (call, arrives))
"""for the session"""
__all__ = ["HELPERS", "PRELUDE", "PROBES", "REFUSED", "Probe", "arrives", "call", "libc", "probe"]
