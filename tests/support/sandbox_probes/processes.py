"""Probes of other processes: signals, memory, settings."""

# ruff: noqa: SIM115 - the code runs in a process that ends soon
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import struct
import time

from tests.support.sandbox_probes.suite import arrives, call, libc, probe


@probe("token")
def environment(there):
    return repr(dict(os.environ)) + open("/proc/self/environ").read()


@probe("token")
def other_environments(there):
    found = ""
    for pid in (there["victim"], there["supervisor"], os.getppid(), 1):
        try:
            found += open(f"/proc/{pid}/environ").read()
        except OSError:
            continue
    return found


@probe("true")
def process_list(there):
    return str(there["victim"]) in os.listdir("/proc")


@probe("true")
def command_line(there):
    return len(open(f"/proc/{there['victim']}/cmdline").read()) > 0


@probe("token")
def memory_file(there):
    with open(f"/proc/{there['victim']}/mem", "rb") as file:
        file.seek(there["address"])
        return file.read(there["token_length"]).decode()


@probe("token")
def memory_by_readv(there):
    target = ctypes.create_string_buffer(there["token_length"])
    local = struct.pack("QQ", ctypes.addressof(target), there["token_length"])
    remote = struct.pack("QQ", there["address"], there["token_length"])
    call(310, there["victim"], local, 1, remote, 1, 0)
    return target.value.decode()


@probe("true")
def trace(there):
    if libc.ptrace(16, there["victim"], None, None) != 0:  # attach
        return False
    os.waitpid(there["victim"], 0x40000000)
    return libc.ptrace(17, there["victim"], None, None) == 0


@probe("harm")
def kill_victim(there):
    os.kill(there["victim"], signal.SIGTERM)


@probe("harm")
def kill_by_descriptor(there):
    signal.pidfd_send_signal(os.pidfd_open(there["victim"]), signal.SIGTERM)


@probe("harm")
def kill_by_thread(there):
    call(200, there["victim"], signal.SIGTERM)


@probe("harm")
def kill_by_thread_group(there):
    call(234, there["victim"], there["victim"], signal.SIGTERM)


@probe("harm")
def kill_by_queue(there):
    call(129, there["victim"], signal.SIGTERM, struct.pack("iii116x", signal.SIGTERM, 0, -1))


@probe("harm")
def signal_by_owner(there):
    """The kernel sends SIGIO to the owner of a descriptor."""
    first, second = os.pipe()
    fcntl.fcntl(first, 8, there["victim"])
    fcntl.fcntl(first, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(second, b"x")


@probe("harm")
def signal_by_owner_structure(there):
    first, second = os.pipe()
    fcntl.fcntl(first, 15, struct.pack("ii", 1, there["victim"]))
    fcntl.fcntl(first, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.write(second, b"x")


@probe("harm")
def signal_by_socket_owner(there):
    first, second = socket.socketpair()
    fcntl.ioctl(first, 0x8902, struct.pack("i", there["victim"]))
    fcntl.fcntl(first, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    second.send(b"x")


@probe("true")
def signal_everyone(there):
    """kill(-1) with a signal that does nothing. In a namespace of its own there is no one else."""
    os.kill(-1, 0)
    return True


@probe("true")
def signal_victims_group(there):
    os.killpg(os.getpgid(there["victim"]), 0)
    return True


@probe("ended")
def end_parent(there):
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(1)  # this process ends with it


@probe("true")
def group_of_victim(there):
    return os.getpgid(there["victim"]) > 0


@probe("true")
def priority_of_victim(there):
    os.getpriority(os.PRIO_PROCESS, there["victim"])
    return True


@probe("harm")
def limit_of_victim(there):
    resource.prlimit(there["victim"], resource.RLIMIT_NOFILE, (16, 16))


@probe("harm")
def niceness_of_victim(there):
    now = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, there["victim"], 19 if now < 19 else 18)


@probe("harm")
def processors_of_victim(there):
    os.sched_setaffinity(there["victim"], {min(os.sched_getaffinity(0))})


@probe("harm")
def scheduling_of_victim(there):
    os.sched_setscheduler(there["victim"], os.SCHED_BATCH, os.sched_param(0))


@probe("true")
def limits_of_parent(there):
    return resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)[1] > 0 and os.getppid() != 1


@probe("true")
def outlive_parent(there):
    """Clear the signal with which the kernel ends this process when its parent is gone."""
    return libc.prctl(1, 0, 0, 0, 0) == 0


@probe("true")
def program_of_victim(there):
    return len(os.readlink(f"/proc/{there['victim']}/exe")) > 0


@probe("true")
def program_of_parent(there):
    """Overwriting the program of a process with more rights is how CVE-2019-5736 left a container."""
    return len(os.readlink(f"/proc/{os.getppid()}/exe")) > 0


@probe("true")
def memory_of_first_process(there):
    return os.open(f"/proc/{os.getppid()}/mem", os.O_RDWR) >= 0


@probe("true")
def descriptors_of_parent(there):
    return len(os.listdir(f"/proc/{os.getppid()}/fd")) > 0


@probe("true")
def same_memory(there):
    return call(312, os.getpid(), there["victim"], 1, 0, 0)[0] >= 0


@probe("true")
def hold_descriptor_of_victim(there):
    return os.pidfd_open(there["victim"]) >= 0


@probe("true")
def steal_descriptor(there):
    return arrives(438, 10_000, 0, 0)


@probe("true")
def niceness_of_other_users(there):
    """ESRCH: the call was allowed, and this user has no processes."""
    return call(141, 2, 3_999_999_999, 19)[1] == errno.ESRCH
