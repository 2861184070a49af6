"""Probes of what is known about files without opening them, and of locks and watches on them."""

# ruff: noqa: SIM115 - the code runs in a process that ends soon
import errno
import fcntl
import os
import struct

from tests.support.sandbox_probes.suite import call, probe


@probe("token")
def read_link(there):
    return os.readlink(f"{there['folder']}/link")


@probe("true")
def stat_file(there):
    return os.stat(f"{there['folder']}/secret").st_size == 4321


@probe("true")
def access_file(there):
    return os.access(f"{there['folder']}/secret", os.F_OK)


@probe("true")
def change_directory(there):
    os.chdir(there["folder"])
    try:
        return os.getcwd() == there["folder"]
    finally:
        os.chdir(os.environ.get("HOME", "/"))


@probe("changes")
def change_mode(there):
    os.chmod(f"{there['folder']}/target", 0o600)


@probe("changes")
def change_mode_of_descriptor(there):
    os.fchmod(os.open(f"{there['folder']}/target", os.O_RDONLY), 0o600)


@probe("changes")
def change_mode_by_proc(there):
    descriptor = os.open(f"{there['folder']}/target", os.O_PATH)
    os.chmod(f"/proc/self/fd/{descriptor}", 0o600)


@probe("changes")
def change_time(there):
    os.utime(f"{there['folder']}/target", (5, 5))


@probe("token")
def read_extended_attribute(there):
    return os.getxattr(f"{there['folder']}/secret", "user.planted").decode()


@probe("changes")
def set_extended_attribute(there):
    os.setxattr(f"{there['folder']}/target", "user.more", b"x")


@probe("true")
def watch_folder(there):
    descriptor, _ = call(294, os.O_NONBLOCK)
    return call(254, descriptor, there["folder"].encode(), 0xFFF)[0] >= 0


@probe("true")
def use_up_watchers(there):
    """The kernel allows a user 128 of these for all programs together."""
    return call(294, 0)[0] >= 0


@probe("true")
def lock_library(there):
    """A lock on a file that programs outside read as well: flock has to have happened, not just return 0."""
    first, second = (os.open(f"{there['site']}/os.py", os.O_RDONLY) for _ in range(2))
    fcntl.flock(first, fcntl.LOCK_EX)
    try:
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


@probe("true")
def lease(there):
    """Opening a leased file blocks for up to 45 seconds. Its owner may lease it; here the code's own file stands in."""
    open("leased", "w").write("x")
    return fcntl.fcntl(os.open("leased", os.O_RDONLY), 1024, fcntl.F_RDLCK) == 0


@probe("true")
def change_flags(there):
    """FS_IOC_SETFLAGS needs no right to write, so Landlock does not see it on the user's other files."""
    descriptor = os.open("flagged", os.O_RDWR | os.O_CREAT)
    flags = struct.unpack("l", fcntl.ioctl(descriptor, 0x80086601, bytes(8)))[0]
    fcntl.ioctl(descriptor, 0x40086602, struct.pack("l", flags | 0x40))  # no dump
    return True


@probe("true")
def write_back_all_disks(there):
    """syncfs makes all programs wait for the disk. EBADF: the call was allowed."""
    return call(306, 10_000)[1] == errno.EBADF
