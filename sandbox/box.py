"""Sandbox: starts confined sessions for code that a model wrote."""

import json
import os
import platform
import site
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

import sandbox.folders as folders
import sandbox.launch as launch
import sandbox.trial as trial
from sandbox.confine import Level
from sandbox.errors import NoIsolationError, SandboxError
from sandbox.limits import Limits
from sandbox.protocol import Pipes
from sandbox.session import Session

Isolation = Literal["auto", "namespaces", "landlock", "none"]

MODULES = ("numpy", "pandas", "matplotlib.pyplot")
SERVER_SECONDS = 120.0
PARTS = ("bin", "etc", "include", "lib", "lib64", "pyvenv.cfg", "share", "ssl")
"""what a Python installation consists of"""
ROOT = Path(__file__).resolve().parent.parent
START = """\
import sys
sys.path.insert(0, sys.argv[1])
from sandbox.server import main
del sys.path[0]
sys.path += [folder for folder in [sys.argv[5]] if folder]
main(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[6:])
"""


class Sandbox:
    """A fork server with the modules that code is likely to need, and the level at which its sessions are isolated.

    level: "namespaces" (a file system, processes and network of its own), "landlock" (the host's, with access denied;
        see docs/sandbox.md for what remains visible) or "none"
    modules: those of `preload` that are installed
    """

    def __init__(self, isolation: Isolation = "auto", preload: Sequence[str] = MODULES) -> None:
        """Start the server and find the level by trying. Raises NoIsolationError, SandboxError, ValueError.

        isolation: "auto" is the first of namespaces and landlock that works, and never none
        """
        if isolation not in get_args(Isolation):
            raise ValueError(f"isolation={isolation!r}: use one of {', '.join(get_args(Isolation))}")
        if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
            found = f"{platform.system()} on {platform.machine()}"
            raise NoIsolationError(f"the sandbox needs Linux on x86-64, not {found}; run it in a virtual machine")
        self._lock = threading.Lock()
        self._sessions: list[Session] = []
        self._process = os.getpid()
        self._start_server(preload)
        try:
            self.level: Level = trial.choose(isolation, self._start_session)
        except BaseException:
            self.close()
            raise
        if self.level == "none":
            print("sandbox: isolation none: code runs with all rights of this user", file=sys.stderr)

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def session(self, files: Mapping[str, bytes] | None = None, limits: Limits | None = None) -> Session:
        """Start a session, with `files` in its working directory. Sessions of several threads run side by side.

        Raises SandboxError, ValueError.
        """
        return self._start_session(self.level, files or {}, limits or Limits())

    def close(self) -> None:
        """End all sessions and the server. Closing twice does nothing."""
        if os.getpid() != self._process:  # a fork: the sessions are not its own
            return
        for session in self._sessions:
            session.close()
        self._control.close()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        folders.remove(self._folder)
        self._errors.close()

    def _start_server(self, preload: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._control = ours
        self._folder = tempfile.mkdtemp(prefix="sandbox-")
        os.chmod(self._folder, 0o711)
        arguments = [ROOT, theirs.fileno(), self._process, self._folder, _user_site(), *preload]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the sandbox
        try:
            with theirs:
                self._server = subprocess.Popen(
                    [sys.executable, "-I", "-c", START, *map(str, arguments)],
                    env=_environment(),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            self._errors.close()
            folders.remove(self._folder)
            raise SandboxError(f"the fork server did not start: {error}") from error
        ours.settimeout(SERVER_SECONDS)
        try:
            with ours.makefile() as lines:
                line = lines.readline()
            cause = "" if line else self._last_error()
        except TimeoutError:
            line, cause = "", f"it was not ready after {SERVER_SECONDS:g} s; preload fewer modules than {preload}"
            self._server.kill()
        if not line:
            self.close()
            raise SandboxError(f"the fork server did not start: {cause}")
        self.modules: tuple[str, ...] = tuple(json.loads(line)["ready"])

    def _last_error(self) -> str:
        """Return the last line of what the server has printed to stderr."""
        if self._errors.closed:
            return "it was closed"
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace").strip().rpartition("\n")[2]

    def _start_session(self, level: Level, files: Mapping[str, bytes], limits: Limits) -> Session:
        session = Session(lambda: self._open(level, limits), files, limits)
        with self._lock:
            self._sessions = [*(other for other in self._sessions if not other.is_over), session]
        return session

    def _open(self, level: Level, limits: Limits) -> Pipes:
        """Have the server fork a session, and return the pipes to it."""
        if os.getpid() != self._process:
            raise SandboxError("this Sandbox belongs to another process; create one in this process")
        orders, status, requests, replies, stdout, stderr = (os.pipe() for _ in range(6))
        theirs = [orders[0], status[1], requests[0], replies[1], stdout[1], stderr[1]]
        ours = [orders[1], status[0], requests[1], replies[0], stdout[0], stderr[0]]
        request = {"level": level, "limits": asdict(limits), "python": _python_folders()}
        try:
            with self._lock:
                socket.send_fds(self._control, [json.dumps(request).encode()], theirs)
        except OSError as error:
            for descriptor in ours:
                os.close(descriptor)
            raise SandboxError(f"the sandbox is closed, or its server has ended: {self._last_error()}") from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return Pipes(*ours)


def _environment() -> dict[str, str]:
    """Return the environment of the server: nothing of this process but where matplotlib keeps its list of fonts."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    fonts = os.environ.get("MPLCONFIGDIR") or os.path.join(cache, "matplotlib")
    return dict.fromkeys(launch.THREADS, "1") | {"LANG": "C.UTF-8", "MPLBACKEND": "agg", "MPLCONFIGDIR": fonts}


def _user_site() -> str:
    """Return the folder of the user's own packages if Python reads modules from it, else an empty text."""
    folder = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
    return folder if os.path.isdir(folder) else ""


def _python_folders() -> list[str]:
    """Return what Python reads of its folders, as they are named and where their links lead to.

    Not the whole folders: a virtual environment may be a project's own folder, with other things in it.
    """
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    prefixes |= {os.path.realpath(prefix) for prefix in prefixes}
    found = {path for prefix in prefixes for part in PARTS if os.path.lexists(path := os.path.join(prefix, part))}
    found |= {_user_site(), os.path.realpath(_user_site())} if _user_site() else set()
    return sorted(found)
