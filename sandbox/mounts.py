"""The file system of a session at level namespaces: what Python needs, read-only, and a small tmpfs to write to."""

import os
from collections.abc import Iterable
from contextlib import suppress

import sandbox.kernel as kernel
from sandbox.limits import Limits

HOME = "/box"
"""working directory of the code"""
WRITABLE = (HOME, "/tmp", "/dev/shm")
DEVICES = tuple(f"/dev/{name}" for name in ("null", "zero", "random", "urandom", "full"))
SYSTEM = ("/bin", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime", "/lib", "/lib32", "/lib64", "/usr")
"""libraries and programs of the system"""


def enter(python: Iterable[str], limits: Limits, owner: int) -> None:
    """Give this process, the first of its mount and PID namespaces, a root of its own. Raises OSError.

    Afterwards nothing of the host's files is in reach but SYSTEM, DEVICES and the folders `python`, all read-only.
    `owner` is the uid that the writable folders belong to. Needs CAP_SYS_ADMIN in the user namespace.
    """
    kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
    # The first root shows the host at /old, also what lies below the folder on which this root is mounted.
    kernel.mount("tmpfs", "/tmp", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, "size=1m,nr_inodes=4096,mode=755")
    os.mkdir("/tmp/old")
    os.mkdir("/tmp/new")
    kernel.pivot_root("/tmp", "/tmp/old")
    os.chdir("/")
    kernel.mount("/new", "/new", None, kernel.MS_BIND)
    _add_writable(limits, owner)
    for device in DEVICES:
        _bind(device, device)
    shown: list[str] = []
    for path in sorted({*SYSTEM, *python}):
        if os.path.lexists(_real_path(path)) and not any(path.startswith(f"{other}/") for other in shown):
            _show(path, is_system=path in SYSTEM)
            shown.append(path)
    os.mkdir("/new/proc")
    with suppress(OSError):  # not permitted in some containers; most code does without
        flags = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount("proc", "/new/proc", "proc", flags, "subset=pid")
    os.mkdir("/new/old")
    kernel.pivot_root("/new", "/new/old")
    os.chdir("/")
    kernel.unmount("/old")
    os.rmdir("/old")
    kernel.make_read_only("/", recursive=False)
    os.chdir(HOME)


def _add_writable(limits: Limits, owner: int) -> None:
    """Add WRITABLE: folders of one tmpfs, so that they share its limits."""
    os.mkdir("/new/disk")
    options = f"size={limits.disk},nr_inodes={limits.inodes},mode=755"
    kernel.mount("tmpfs", "/new/disk", "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    for number, target in enumerate(WRITABLE):
        folder = f"/new/disk/{number}"
        os.mkdir(folder)
        os.chmod(folder, 0o700)
        os.chown(folder, owner, owner)
        os.makedirs(f"/new{target}")
        kernel.mount(folder, f"/new{target}", None, kernel.MS_BIND)
    kernel.unmount("/new/disk")
    os.rmdir("/new/disk")


def _show(path: str, *, is_system: bool) -> None:
    """Show a path of the host read-only, with all mounts below it. Links of the system (/bin -> usr/bin) stay links."""
    if is_system and os.path.islink(f"/old{path}") and os.path.isdir(f"/old{path}"):
        os.symlink(os.readlink(f"/old{path}"), f"/new{path}")
        return
    _bind(path, path)
    kernel.make_read_only(f"/new{path}", recursive=True)


def _bind(path: str, target: str) -> None:
    source = _real_path(path)
    if os.path.isdir(source):
        os.makedirs(f"/new{target}", exist_ok=True)
    else:
        os.makedirs(os.path.dirname(f"/new{target}"), exist_ok=True)
        with open(f"/new{target}", "x"):
            pass
    kernel.mount(source, f"/new{target}", None, kernel.MS_BIND | kernel.MS_REC)


def _real_path(path: str) -> str:
    """Return the path below /old to which a path of the host leads. Its absolute links begin at the host's root."""
    for _ in range(40):
        parts = path.strip("/").split("/")
        for count in range(1, len(parts) + 1):
            link = "/" + "/".join(parts[:count])
            if os.path.islink(f"/old{link}"):
                path = os.path.normpath(os.path.join(os.path.dirname(link), os.readlink(f"/old{link}"), *parts[count:]))
                break
        else:
            return f"/old{path}"
    raise OSError(f"too many links: {path}")
