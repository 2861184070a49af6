"""Landlock: the kernel refuses access to all files but some (Linux, userspace-api/landlock.rst)."""

import ctypes
import os
import struct
from collections.abc import Iterable

from sandbox.kernel import system_call

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION_FLAG = 1
PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
TRUNCATE = 1 << 14
IOCTL_DEV = 1 << 15
# Rights on files, by the version of Landlock that added them: version 1 has the first 13.
FILE_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: TRUNCATE, 5: IOCTL_DEV}
BIND_AND_CONNECT_TCP = 3
"""version 4"""
SCOPE_SOCKETS_AND_SIGNALS = 3
"""version 6: abstract sockets and signals reach processes of this sandbox only"""

READ = EXECUTE | READ_FILE | READ_DIR
OLDEST = 3
"""Before version 3 (Linux 6.2) files outside could be truncated."""


def version() -> int:
    """Return the kernel's version of Landlock; 0 without it."""
    try:
        return system_call("landlock_create_ruleset", CREATE_RULESET, None, 0, VERSION_FLAG)
    except OSError:
        return 0


def restrict(readable: Iterable[str], writable: Iterable[str], *, present: int) -> None:
    """Deny this process and its children everything but reading `readable` and all use of `writable`.

    Paths that do not exist are left out. `present` is the kernel's version, at least OLDEST; no_new_privs must be set.
    """
    rights = 0
    for added, bits in FILE_RIGHTS.items():
        rights |= bits if added <= present else 0
    network = BIND_AND_CONNECT_TCP if present >= 4 else 0
    scopes = SCOPE_SOCKETS_AND_SIGNALS if present >= 6 else 0
    attributes = struct.pack("QQQ", rights, network, scopes)[: 8 if present < 4 else 16 if present < 6 else 24]
    ruleset = system_call("landlock_create_ruleset", CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for paths, allowed in ((readable, READ), (writable, rights)):
            for path in paths:
                _allow(ruleset, path, allowed & rights)
        system_call("landlock_restrict_self", RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, descriptor))
        system_call(f"landlock_add_rule {path}", ADD_RULE, ruleset, PATH_BENEATH, rule, 0)
    finally:
        os.close(descriptor)
