"""Which level of isolation this machine has: decided by trying to get out, once per process."""

import os
import socket
import subprocess
import tempfile
import threading
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex

from sandbox.confine import Level
from sandbox.errors import NoIsolationError, SandboxError
from sandbox.limits import Limits
from sandbox.session import Session

Start = Callable[[Level, Mapping[str, bytes], Limits], Session]

ORDER: tuple[Level, ...] = ("namespaces", "landlock")
ATTEMPTS = """
import os, signal, socket
def read():
    open({file!r}).read()
def list_():
    os.listdir({folder!r})
def reach(family, address):
    socket.socket(family, socket.SOCK_STREAM).connect(address)
attempts = {{
    "read a file": read,
    "list a folder": list_,
    "reach a port": lambda: reach(socket.AF_INET, ("127.0.0.1", {port})),
    "reach a socket by its path": lambda: reach(socket.AF_UNIX, {path!r}),
    "reach an abstract socket": lambda: reach(socket.AF_UNIX, "\\0" + {abstract!r}),
    "signal a process": lambda: os.kill({victim}, signal.SIGTERM),
}}
done = []
for name, attempt in attempts.items():
    try:
        attempt()
    except OSError:
        continue
    done.append(name)
done
"""
_found: dict[Level, str] = {}
"""level -> why it does not isolate; empty if it does"""
_lock = threading.Lock()


def choose(isolation: str, start: Start) -> Level:
    """Return the level for `isolation`. Raises NoIsolationError with the cause and what would help."""
    if isolation == "none":
        return "none"
    tried = [level for level in ORDER if isolation in ("auto", level)]
    for level in tried:
        if not why_not(level, start):
            return level
    causes = "; ".join(f"{level}: {_found[level]}" for level in tried)
    raise NoIsolationError(
        f"this machine cannot isolate code ({causes}); {remedy()}, or isolation='none' for code you trust"
    )


def why_not(level: Level, start: Start) -> str:
    """Return why a level does not isolate on this machine, or an empty text. Tries once per process."""
    with _lock:
        if level not in _found:
            try:
                _found[level] = _try(level, start)
            except SandboxError as error:
                _found[level] = str(error)
        return _found[level]


def _try(level: Level, start: Start) -> str:
    with _planted() as (attempts, victim), start(level, {}, Limits()) as session:
        result = session.run(attempts, 60)
        if not result.ok or result.value is None:
            return f"the trial failed: {result.error} {result.stderr.strip()}"
        escapes = literal_eval(result.value)
        if victim.poll() is not None and "signal a process" not in escapes:
            escapes.append("end a process")
    return f"code could {', '.join(escapes)}" if escapes else ""


@contextmanager
def _planted() -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Yield code that tries to reach what was planted outside, and the process that it tries to end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o755)
        (folder / "secret").write_text("secret")
        abstract = f"sandbox-{token_hex(8)}"
        addresses: dict[int, str | tuple[str, int]] = {
            socket.AF_INET: ("127.0.0.1", 0),
            socket.AF_UNIX: str(folder / "socket"),
        }
        listeners = [stack.enter_context(socket.socket(family)) for family in addresses]
        for listener, address in zip(listeners, addresses.values(), strict=True):
            listener.bind(address)
            listener.listen()
        hidden = stack.enter_context(socket.socket(socket.AF_UNIX))
        hidden.bind("\0" + abstract)
        hidden.listen()
        os.chmod(folder / "socket", 0o777)
        victim = stack.enter_context(subprocess.Popen(["sleep", "600"]))
        stack.callback(victim.kill)
        code = ATTEMPTS.format(
            file=str(folder / "secret"),
            folder=str(folder),
            port=listeners[0].getsockname()[1],
            path=str(folder / "socket"),
            abstract=abstract,
            victim=victim.pid,
        )
        yield code, victim


SETTINGS = {
    "user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    "kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
}


def remedy() -> str:
    """Return what would permit namespaces on this machine."""
    for name, (forbids, command) in SETTINGS.items():
        path = Path("/proc/sys", name)
        if path.exists() and path.read_text().strip() == forbids:
            return f"run: {command}"
    return "use Linux 6.2 or newer, in a container with --security-opt seccomp=unconfined"
