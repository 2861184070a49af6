"""Code tries to get out of a sandbox, at every level, as root and as a user without privileges.

The attempts are in tests/support/sandbox_probes; at level none, the control, they do get through.
"""

import json

import pytest

from sandbox.confine import has_capabilities
from sandbox.kernel import CAP_SYS_ADMIN
from tests.support.sandbox_probes.driver import PROBES
from tests.support.users import run_as

LANDLOCK = {
    "stat_file": "Landlock does not govern stat: names, sizes and times of all files that the user may see",
    "access_file": "the same, by access",
    "read_link": "nor where symbolic links point to",
    "change_directory": "nor the working directory: files there stay closed",
    "become_root": "root stays root, without capabilities, if its Python lies in a folder that is closed to others",
}
"""what gets through at level landlock, and why"""
NEVER = {
    "stream_pair_sends_to_path": "the kernel refuses the address of a connected stream itself",
    "inherited_descriptors": "no process leaves one open",
    "old_root_by_name": "only a session has two roots",
    "environment": "that of the supervisor is kept from sessions at every level",
    "artefact_link": "links are not followed at any level",
    "artefact_pipe": "files are read inside, and no pipes",
    "x32_calls": "most kernels are built without x32",
    "calls_of_32_bit": "some kernels are built without the calls of i386",
    "lookup_dcookie": "gone since Linux 6.7",
    "uselib": "gone from most kernels",
    "kexec_load": "some kernels are built without it",
    "later_system_calls": "there may be none yet",
    "change_flags": "not every file system has them",
    "read_extended_attribute": "not every file system has them",
    "set_extended_attribute": "not every file system has them",
}
"""what does not get through at level none everywhere either, and why"""
RARE_RIGHTS = {
    "read_block_device", "raise_limit", "unlimited_core_and_file", "init_module", "iopl", "ioperm", "interfaces",
    "memfd_secret", "perf_event_open", "open_by_handle_at",
}  # fmt: skip
"""what needs capabilities that root of a container or a virtual machine may lack, or a setting of the machine"""
NEEDS_ROOT = {
    "acct", "become_root", "capabilities", "capabilities_by_call", "fanotify_init", "host_name", "kernel_knob",
    "kernel_log", "make_device", "read_shadow_or_keys", "reboot", "swapon", "write_home", "write_library",
    "write_supervisors_folder", "niceness_of_victim",
}  # fmt: skip
SETTINGS = {
    "user_namespace", "namespace_by_clone", "trace", "memory_file", "memory_by_readv", "bpf", "userfaultfd",
    "mount", "unmount", "new_mount_calls", "change_root", "clock", "enter_namespace", "quotactl", "terminal_input",
}  # fmt: skip
"""what the settings of a machine may forbid to all but root"""
MACHINE = ("unshare: ", "/proc/self/uid_map", "mount /: ", "this kernel has version")
"""parts of messages that say that this machine lacks a level; all others are failures"""


def attempt(level: str, who: str) -> dict[str, str]:
    """Return what got through and what each attempt returned."""
    done = run_as(who, "-m", "tests.support.sandbox_probes.driver", level)
    if "NoIsolationError" in done.stderr and any(cause in done.stderr for cause in MACHINE):
        pytest.skip(done.stderr.strip().rpartition("\n")[2])
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) > 150
    return {name: result["found"] for name, result in results.items() if result["through"]}


@pytest.mark.parametrize("who", ["root", "user"])
def test_nothing_gets_through_namespaces(who):
    assert attempt("namespaces", who) == {}


@pytest.mark.parametrize("who", ["root", "root of an open Python", "user"])
def test_through_landlock_gets_what_is_listed(who):
    through = attempt("landlock", who)
    assert {name: found for name, found in through.items() if name not in LANDLOCK} == {}
    assert set(LANDLOCK) - set(through) <= {"become_root"}
    assert who == "root" or "become_root" not in through


@pytest.mark.parametrize("who", ["root", "user"])
def test_without_isolation_the_attempts_succeed(who):
    """An attempt that never succeeds would prove nothing."""
    if who == "root" and not has_capabilities(CAP_SYS_ADMIN):
        pytest.skip("needs root that may mount")
    expected = set(PROBES) - set(NEVER) - RARE_RIGHTS - (NEEDS_ROOT | SETTINGS if who == "user" else set())
    assert expected - set(attempt("none", who)) == set()
