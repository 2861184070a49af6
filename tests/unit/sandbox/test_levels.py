"""Which level is chosen, and what is said if there is none: inside user namespaces, and where the kernel refuses."""

import os
import platform
import subprocess
import sys

import pytest

import sandbox.trial as trial
from sandbox import NoIsolationError, Sandbox
from sandbox.landlock import CREATE_RULESET
from tests.support.users import run_as

USE = """
import os, sys
import sandbox.seccomp as seccomp, sandbox.kernel as kernel
from sandbox import NoIsolationError, Sandbox

def refuse(errors):
    program = [seccomp._instruction(seccomp.LOAD, seccomp.NUMBER)]
    for number, error in errors.items():
        program += seccomp._refuse([number], error)
    program = b"".join([*program, seccomp._instruction(seccomp.RETURN, seccomp.ALLOW)])
    seccomp.build = lambda *_, **__: [program]
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(in_namespaces=True, pid=0)

refuse({errors})
try:
    with Sandbox({isolation!r}, preload=()) as box, box.session() as session:
        print(box.level, session.run("import json.tool; 1 + 1").value)
except NoIsolationError as error:
    print(error)
"""
UNSHARE, EPERM, ENOSYS = 272, 1, 38
CAUSES = "namespaces: [Errno 1] unshare: Operation not permitted"
NO_LANDLOCK = "landlock: Landlock version 3 (Linux 6.2) is needed; this kernel has version 0"
WAY_OUT = "or isolation='none' for code you trust"


def use(who="user", *prefix, isolation="auto", errors=None):
    """Return what a program prints that runs code at the level that it finds.

    errors: {number of a system call: error} that the kernel refuses, as in a container
    """
    done = run_as(who, "-c", USE.format(isolation=isolation, errors=errors or {}), prefix=prefix)
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.parametrize("who", ["root", "user"])
def test_namespaces_are_the_first_choice(who):
    assert use(who) == "namespaces 2"


@pytest.mark.parametrize("flags", ["-Ur", "-Urm", "-Urmpf --mount-proc"])
def test_inside_a_user_namespace(flags):
    """As in a rootless container: user 0, and none other."""
    if os.geteuid() != 0 and subprocess.run(["unshare", "-U", "true"], check=False).returncode:
        pytest.skip("needs user namespaces")
    assert use("root" if os.geteuid() == 0 else "user", "unshare", *flags.split()) == "namespaces 2"


def test_processes_that_cannot_be_seen():
    cause = "/proc belongs to another PID namespace; run: mount -t proc proc /proc"
    found = use("root" if os.geteuid() == 0 else "user", "unshare", "-Urpf")
    assert found.startswith(f"this machine cannot isolate code (namespaces: {cause}; landlock: {cause}); ")


@pytest.mark.parametrize("who", ["root", "user"])
def test_landlock_where_a_container_forbids_namespaces(who):
    assert use(who, errors={UNSHARE: EPERM}) == "landlock 2"


def test_root_that_may_not_mount_takes_a_user_namespace():
    if os.geteuid() != 0:
        pytest.skip("needs root")
    assert use("root", "setpriv", "--bounding-set=-sys_admin") == "namespaces 2"
    assert use("root", "setpriv", "--bounding-set=-setuid") == "namespaces 2"


@pytest.mark.parametrize("who", ["root", "user"])
def test_neither(who):
    errors = {UNSHARE: EPERM, CREATE_RULESET: ENOSYS}
    remedy = "use Linux 6.2 or newer, in a container with --security-opt seccomp=unconfined"
    expected = f"this machine cannot isolate code ({CAUSES}; {NO_LANDLOCK}); {remedy}, {WAY_OUT}"
    assert use(who, errors=errors) == expected
    asked = f"this machine cannot isolate code ({CAUSES}); {remedy}, {WAY_OUT}"
    assert use(who, errors=errors, isolation="namespaces") == asked


def test_user_namespaces_that_are_switched_off():
    """Inside one, its owner may forbid further ones."""
    script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    prefix = ("unshare", "-Ur", "sh", "-c", script, "sh")
    who = "root" if os.geteuid() == 0 else "user"
    assert use(who, *prefix) == "landlock 2"
    assert use(who, *prefix, isolation="namespaces") == (
        "this machine cannot isolate code (namespaces: [Errno 28] unshare: No space left on device); "
        f"run: sysctl user.max_user_namespaces=10000, {WAY_OUT}"
    )


def test_other_systems_are_refused(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    message = "the sandbox needs Linux on x86-64, not Darwin on arm64; run it in a virtual machine"
    with pytest.raises(NoIsolationError, match=f"^{message}$"):
        Sandbox("none")


def test_unknown_isolation():
    with pytest.raises(ValueError, match=r"^isolation='docker': use one of auto, namespaces, landlock, none$"):
        Sandbox("docker")


@pytest.mark.parametrize(
    ("escapes", "cause"),
    [("['read a file', 'reach a port']", "code could read a file, reach a port"), ("[]", "")],
)
def test_a_level_that_lets_code_out_is_not_used(monkeypatch, escapes, cause):
    """The trial runs code that tries; here that code says that it succeeded."""
    monkeypatch.setattr(trial, "_found", {})
    monkeypatch.setattr(trial, "ATTEMPTS", escapes.replace("{", "{{"))
    with Sandbox("none", preload=()) as box:
        assert trial.why_not("landlock", box._start_session) == cause


def test_attempts_of_the_trial_succeed_without_isolation(monkeypatch):
    monkeypatch.setattr(trial, "_found", {})
    with Sandbox("none", preload=()) as box:
        assert trial.why_not("none", box._start_session) == (
            "code could read a file, list a folder, reach a port, reach a socket by its path, "
            "reach an abstract socket, signal a process"
        )


def test_none_is_said(capsys):
    with Sandbox("none", preload=()) as box:
        assert box.level == "none"
    assert capsys.readouterr().err == "sandbox: isolation none: code runs with all rights of this user\n"


def test_command_line():
    done = subprocess.run([sys.executable, "-m", "sandbox"], capture_output=True, text=True, check=False)
    first, second, last = done.stdout.splitlines()
    assert first.startswith("namespaces   works: code ran as process 2 in ")
    assert second.startswith("landlock     works: code ran as process ")
    assert last == "isolation='auto' is namespaces"
    assert done.returncode == 0
