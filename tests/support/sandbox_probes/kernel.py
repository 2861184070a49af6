"""Probes of privileges, namespaces and of system calls with a history of holes."""

# ruff: noqa: SIM115 - the code runs in a process that ends soon
import ctypes
import fcntl
import mmap
import os
import resource
import struct

from tests.support.sandbox_probes.suite import PROBES, REFUSED, Probe, arrives, call, libc, probe


@probe("true")
def capabilities(there):
    sets = [line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapPrm", "CapEff", "CapBnd"))]
    return any(int(each, 16) for each in sets[:2])


@probe("true")
def capabilities_by_call(there):
    sets = ctypes.create_string_buffer(24)
    call(125, struct.pack("Ii", 0x20080522, 0), sets)
    return any(sets.raw)


@probe("true")
def new_privileges(there):
    return libc.prctl(39, 0, 0, 0, 0) == 0


@probe("true")
def become_root(there):
    os.setresuid(0, 0, 0)
    return os.getuid() == 0


@probe("true")
def user_namespace(there):
    return libc.unshare(0x10000000) == 0


@probe("true")
def namespace_by_clone(there):
    pid, _ = call(56, 0x10000000 | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return pid > 0 and os.waitpid(pid, 0)[0] == pid


@probe("true")
def namespace_by_clone3(there):
    return arrives(435, None, 0)


@probe("true")
def enter_namespace(there):
    return arrives(308, 10_000, 0)


@probe("true")
def mount(there):
    return arrives(165, b"none", b"/nowhere", b"tmpfs", 0, None)


@probe("true")
def unmount(there):
    return arrives(166, b"/nowhere", 0)


@probe("true")
def new_mount_calls(there):
    calls = {
        428: (-100, b"/nowhere", 0),
        430: (b"none", 0),
        432: (-1, 0, 0),
        442: (-100, b"/nowhere", 0, bytes(32), 32),
    }
    return any(arrives(number, *arguments) for number, arguments in calls.items())


@probe("true")
def change_root(there):
    return arrives(161, b"/nowhere")


@probe("true")
def host_name(there):
    name = os.uname().nodename
    return arrives(170, name.encode(), 1000)


@probe("true")
def kernel_knob(there):
    with open("/proc/sys/kernel/hostname", "r+") as file:
        return bool(file)


@probe("true")
def kernel_knob_read(there):
    return len(open("/proc/sys/kernel/osrelease").read()) > 0


@probe("true")
def kernel_log(there):
    return arrives(103, 10, None, 0)


@probe("true")
def clock(there):
    return arrives(227, 0, None)


@probe("true")
def raise_limit(there):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard + 1, hard + 1))
    return True


@probe("true")
def unlimited_core_and_file(there):
    kinds = (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE, resource.RLIMIT_AS)
    return all(resource.getrlimit(kind)[1] == resource.RLIM_INFINITY for kind in kinds)


CALLS = {  # by number: arguments with which each fails before it does anything
    "bpf": (321, 9999, None, 0), "perf_event_open": (298, None, 0, -1, -1, 0), "userfaultfd": (323, 0xFFFF),
    "io_uring_setup": (425, 0, None), "keyctl": (250, 0, -3, 0), "add_key": (248, None, None, None, 0, 0),
    "fanotify_init": (300, 0xFFFFFFF, 0), "open_by_handle_at": (304, -1, None, 0), "kexec_load": (246, 0, 99, None, 0),
    "init_module": (175, None, 0, None), "personality": (135, 0xFFFFFFFF), "io_setup": (206, 0, None),
    "name_to_handle_at": (303, -1, b"x", None, None, 0), "quotactl": (179, 0, None, 0, None),
    "mq_open": (240, b"x", 0, 0, None), "msgget": (68, 1, 0), "semget": (64, 1, 0, 0), "swapon": (167, b"/nowhere", 0),
    "acct": (163, b"/nowhere"), "reboot": (169, 0, 0, 0, None), "memfd_create": (319, None, 0),
    "memfd_secret": (447, 0xFFFF), "process_madvise": (440, -1, None, 0, 0, 0),
    "migrate_pages": (256, 0, 0, None, None),
    "vmsplice": (278, -1, None, 0, 0), "tee": (276, -1, -1, 1, 0), "splice": (275, -1, None, -1, None, 1, 0),
    "landlock_create_ruleset": (444, None, 0, 1), "seccomp": (317, 99, 0, None), "statmount": (457, None, None, 0, 0),
    "modify_ldt": (154, 99, None, 0), "iopl": (172, 3), "ioperm": (173, 0, 1, 1), "lookup_dcookie": (212, 0, None, 0),
    "process_mrelease": (448, -1, 0), "kcmp": (312, -1, -1, 0, 0, 0), "uselib": (134, b"/nowhere"),
}  # fmt: skip
for name, arguments in CALLS.items():
    code = f"def {name}(there):\n    return arrives{arguments}\n"
    PROBES[name] = Probe(name, "true", code)


@probe("true")
def later_system_calls(there):
    """Those that kernels to come add do not exist inside; 463 to 470 exist on some machines."""
    return any(arrives(number, -1, None, 0, 0, 0, 0) for number in range(463, 480))


@probe("true")
def x32_calls(there):
    """getpid with the bit of the x32 interface, whose numbers another filter would miss."""
    return call(0x40000000 + 39)[0] == os.getpid()


@probe("true")
def calls_of_32_bit(there):
    """int 0x80 reaches the kernel under the numbers of i386: the process may die of it."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("53 b8 14 00 00 00 cd 80 5b c3"))  # eax = 20 (getpid); int 0x80
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return function() == os.getpid()


@probe("true")
def shared_memory_segment(there):
    segment, _ = call(29, 0, 4096, 0o600)
    return segment >= 0 and call(31, segment, 0, None)[0] == 0


@probe("true")
def large_pages(there):
    """They count for no process. ENOMEM: the call was allowed, and the machine has none."""
    return arrives(9, 0, 2**21, 3, 0x40022, -1, 0)


@probe("true")
def terminal_input(there):
    """TIOCSTI types into the terminal of who started this."""
    _, error = call(16, 0, 0x5412, b"x")
    return error not in REFUSED


@probe("true")
def pipe_size(there):
    return fcntl.fcntl(os.pipe()[0], 1031, 2**20) >= 2**20
