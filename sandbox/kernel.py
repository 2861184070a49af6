"""Linux system calls that Python's standard library lacks, by ctypes. Each raises OSError with the name of the call."""

import ctypes
import os
import signal
import struct

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
MOUNT_ATTR_READ_ONLY_NOSUID_NODEV = 1 | 2 | 4

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
LAST_CAPABILITY = 40
CAP_SYS_ADMIN = 21
TO_CHANGE_USER = (0, 5, 6, 7)
"""CAP_CHOWN, CAP_KILL, CAP_SETGID, CAP_SETUID"""

KCMP_VM = 1

SYS_CAPSET = 126
SYS_PIVOT_ROOT = 155
SYS_KCMP = 312
SYS_SECCOMP = 317
SYS_MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def system_call(name: str, number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Call by number. Integers are passed as C long, bytes and arrays as pointers."""
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(name, _libc.syscall(ctypes.c_long(number), *converted))


def unshare(flags: int) -> None:
    """Move this process to new namespaces."""
    _checked("unshare", _libc.unshare(flags))


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _checked(f"mount {target}", _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]))


def unmount(target: str) -> None:
    """Detach a mount and everything below it."""
    _checked(f"umount {target}", _libc.umount2(os.fsencode(target), MNT_DETACH))


def make_read_only(target: str, *, recursive: bool) -> None:
    """Make a mount, or it and all below it, read-only, nosuid and nodev. Needs Linux 5.12."""
    attributes = struct.pack("QQQQ", MOUNT_ATTR_READ_ONLY_NOSUID_NODEV, 0, 0, 0)
    flags = AT_RECURSIVE if recursive else 0
    size = len(attributes)
    system_call(f"mount_setattr {target}", SYS_MOUNT_SETATTR, AT_FDCWD, os.fsencode(target), flags, attributes, size)


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root of this mount namespace and move the present root to `old`."""
    system_call("pivot_root", SYS_PIVOT_ROOT, os.fsencode(new), os.fsencode(old))


def shares_memory(first: int, second: int) -> bool:
    """Return whether two processes have one memory, as after vfork; False if the kernel does not tell."""
    try:
        return system_call("kcmp", SYS_KCMP, first, second, KCMP_VM, 0, 0) == 0
    except OSError:
        return False


def prctl(option: int, value: int) -> None:
    _checked(
        "prctl", _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    )


def drop_capabilities() -> None:
    """Give up all capabilities for good. Does nothing to those of user namespaces entered later."""
    for capability in range(LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # not permitted without CAP_SETPCAP, and not needed then: no_new_privs follows
            break
    version_3 = struct.pack("Ii", 0x20080522, 0)
    system_call("capset", SYS_CAPSET, version_3, bytes(24))


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends.

    A change of user clears this: call it again afterwards. The parent may have ended before the call: ask afterwards.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
