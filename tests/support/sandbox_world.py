"""What lies outside a sandbox for its code to reach: files, sockets, a process. Also how to see that it was reached."""

import os
import resource
import select
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

VICTIM = """
import ctypes, sys, time
kept = ctypes.create_string_buffer(sys.stdin.readline().strip().encode())
print(ctypes.addressof(kept), flush=True)
time.sleep(600)
"""
PLANTED = {"secret", "target", "link", "path", "path_datagram"}
SIZE = 4321
"""bytes of the planted file"""
TIME = 1_000_000_000
"""its time of modification"""


class World:
    """Planted files, sockets and a process, in a new folder; `facts` are what a probe needs to know of them.

    token: a text that is in the planted files, in the environment of this process and in the memory of the victim
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.token = f"secret-{token_hex(8)}"
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="planted-")))
        self.folder.chmod(0o777)
        os.environ["PLANTED"] = self.token
        self._listeners: dict[str, socket.socket] = {}
        self.victim: subprocess.Popen[str] | None = None
        self.facts: dict[str, Any] = {
            "folder": str(self.folder),
            "token_length": len(self.token),
            "supervisor": os.getpid(),
            "cwd": os.getcwd(),
            "home": os.path.expanduser("~"),
            "site": str(Path(os.__file__).parent),
        }
        self._listen()
        self.renew()

    def close(self) -> None:
        if self.victim is not None:
            self._kill_victim()
        self._stack.close()

    def renew(self) -> None:
        """Undo what a probe has done: plant the files again, restart the victim if it has changed, drop connections."""
        for name in set(os.listdir(self.folder)) - PLANTED:
            (self.folder / name).unlink()
        for name in ("secret", "target"):
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
            path.write_text(self.token.ljust(SIZE, "\n"))
            path.chmod(0o666)
            with suppress(OSError):  # not every file system has these
                os.setxattr(path, "user.planted", self.token.encode())
            os.utime(path, (TIME, TIME))
        link = self.folder / "link"
        link.unlink(missing_ok=True)
        link.symlink_to(f"/nowhere/{self.token}")
        self.reached()
        if self.victim is None or self.harm():
            self._start_victim()

    def _listen(self) -> None:
        abstract = token_hex(8)
        kinds: dict[str, tuple[int, int, Any]] = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "path": (socket.AF_UNIX, socket.SOCK_STREAM, str(self.folder / "path")),
            "path_datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, str(self.folder / "path_datagram")),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{abstract}"),
            "abstract_datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{abstract}-datagram"),
        }
        for name, (family, kind, address) in kinds.items():
            listener = self._stack.enter_context(socket.socket(family, kind))
            listener.bind(address)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            if name.startswith("path"):
                os.chmod(address, 0o777)
            self._listeners[name] = listener
            found = listener.getsockname()
            self.facts[name] = found if isinstance(found, tuple) else os.fsdecode(found)

    def reached(self) -> list[str]:
        """Return the names of the sockets that something was sent or connected to since the last call."""
        found = []
        for name, listener in self._listeners.items():
            while select.select([listener], [], [], 0)[0]:
                found.append(name)
                if listener.type == socket.SOCK_STREAM:
                    listener.accept()[0].close()
                else:
                    listener.recv(100)
        return found

    def _start_victim(self) -> None:
        if self.victim is not None:
            self._kill_victim()
        self.victim = subprocess.Popen(
            [sys.executable, "-I", "-c", VICTIM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PLANTED": self.token},
        )
        assert self.victim.stdin is not None
        assert self.victim.stdout is not None
        self.victim.stdin.write(f"{self.token}\n")
        self.victim.stdin.flush()
        self.facts |= {"victim": self.victim.pid, "address": int(self.victim.stdout.readline())}
        self._before = self._settings()

    def _kill_victim(self) -> None:
        assert self.victim is not None
        self.victim.kill()
        self.victim.communicate()

    def _settings(self) -> tuple[object, ...]:
        pid = self.facts["victim"]
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        return os.getpriority(os.PRIO_PROCESS, pid), limits, os.sched_getaffinity(pid), os.sched_getscheduler(pid)

    def harm(self) -> str:
        """Return what happened to the victim; nothing if it is unharmed."""
        assert self.victim is not None
        with suppress(subprocess.TimeoutExpired):
            return f"ended with {self.victim.wait(0.02)}"
        after = self._settings()
        return "" if after == self._before else f"changed: {self._before} to {after}"

    def changes(self) -> list[str]:
        """Return what differs in the planted folder from what was planted."""
        found = [f"new {name}" for name in os.listdir(self.folder) if name not in PLANTED]
        for name in ("secret", "target"):
            path = self.folder / name
            if not path.is_file():
                found.append(f"no {name}")
                continue
            status = path.stat()
            if path.read_text() != self.token.ljust(SIZE, "\n"):
                found.append(f"{name} written")
            if stat.S_IMODE(status.st_mode) != 0o666 or status.st_mtime != TIME or status.st_nlink != 1:
                found.append(f"attributes of {name}")
            with suppress(OSError):
                if os.listxattr(path) not in ([], ["user.planted"]):
                    found.append(f"extended attributes of {name}")
        return found
