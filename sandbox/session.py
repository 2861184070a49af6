"""One session: a confined process whose variables persist from block to block."""

import base64
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from sandbox.channel import GRACE, Answer, Cause, Channel, SessionOverError
from sandbox.errors import NoIsolationError, SandboxError
from sandbox.limits import Limits
from sandbox.protocol import Message, Pipes, ProtocolError
from sandbox.result import Ended, Result

START_SECONDS = 60.0
PNG = b"\x89PNG\r\n\x1a\n"
LONGEST_TEXT = 200_000
"""characters of a value, an error or a traceback; the worker sends half as many"""
MOST_TAKEN = 32 * 2**20
"""bytes that `take` returns at most"""
MESSAGES: dict[Cause, str] = {
    "timeout": "killed: it did not end within {seconds:g} s, nor {grace:g} s after an interrupt",
    "cpu": "killed: the process used more than {cpu} s of CPU time",
    "memory": "killed: the processes used more than {memory:,} bytes of memory",
    "died": "the process ended with exit code {code}",
    "protocol": "killed: it sent something that is no reply, or closed the pipe",
}


class SessionEndedError(SandboxError):
    """The session is over, or was interrupted, in the middle of a request."""

    def __init__(self, ended: Ended, text: str) -> None:
        super().__init__(text)
        self.ended = ended


class Session:
    """A confined process. Created by Sandbox.session; close it, or use it in a with statement.

    One thread at a time may use a session.
    """

    def __init__(self, start: Callable[[], Pipes], files: Mapping[str, bytes], limits: Limits) -> None:
        """Start the processes and write `files`. Raises NoIsolationError, SandboxError, ValueError."""
        for name in files:
            if not _is_inside(name):
                raise ValueError(f"file name {name!r}: use a relative path without '..'")
        self.limits = limits
        self._start = start
        self._files = {name: base64.b64encode(content).decode() for name, content in files.items()}
        self._number = 0
        self._channel: Channel | None = None
        self.reset()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, code: str, timeout: float | None = None, answer: Answer | None = None) -> Result:
        """Run a block of code. What the code does is in the result, never an exception here.

        timeout: seconds of wall-clock time after which the block is interrupted, as by Ctrl-C; one second later all
            processes are killed. Default: limits.seconds
        answer: called with what the code asks the supervisor (sandbox/remote.py)

        Raises SandboxError if the session is over, ValueError for code of more than 64 MiB or a negative timeout.
        """
        channel = self._open_channel()
        seconds = self.limits.seconds if timeout is None else timeout
        started = time.monotonic()
        try:
            reply, interrupted = self._exchange({"code": code, "number": self._number + 1}, seconds, answer)
            result = _result(reply)
        except (SessionOverError, ProtocolError) as error:
            self.close()
            ended, text = self._why_over(error, seconds)
            result, interrupted, reply = Result(False, error=text, ended=ended, lost=True), False, {}
        self._number += 1
        if interrupted and reply.get("interrupted") is True:
            result = replace(result, ok=False, ended="timeout", error=f"interrupted after {seconds:g} s")
        stdout, stderr = channel.take_output()
        return replace(result, stdout=stdout, stderr=stderr, seconds=time.monotonic() - started)

    def take(self, pattern: str, max_bytes: int) -> dict[str, bytes]:
        """Return {name: content} of the files that the code has written and that match a pattern ("*.csv", "**/*").

        The names are relative to the session's working directory, without '..'. Links and special files are left out.
        Names and contents are made by untrusted code: a name may be anything that a file name may be.
        Raises SandboxError if there are more than `max_bytes`, if a file cannot be read, if the session is over or if
        its end comes now; ValueError for a pattern that is no relative path, and for more than 32 MiB.
        """
        if not _is_inside(pattern):
            raise ValueError(f"pattern {pattern!r}: use a relative path without '..'")
        if not 0 <= max_bytes <= MOST_TAKEN:
            raise ValueError(f"max_bytes={max_bytes}: must be between 0 and {MOST_TAKEN:,}")
        reply = self.request({"take": pattern, "most": max_bytes})
        if reply.get("too_large") is True:
            raise SandboxError(f"the files {pattern} have more than {max_bytes:,} bytes; take fewer, or allow more")
        try:
            files = {name: base64.b64decode(content) for name, content in reply["files"].items()}
            if not all(_is_inside(name) for name in files) or sum(map(len, files.values())) > max_bytes:
                raise ValueError
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            self.close()
            raise SandboxError("the session sent something that is no file, and was closed") from error
        return files

    def request(self, message: Message, seconds: float | None = None, answer: Answer | None = None) -> Message:
        """Send a request that is no block, and return the reply.

        Raises SessionEndedError if the session is over by then, or had to be interrupted; SandboxError if the request
        was refused; ValueError if it is too large.
        """
        self._open_channel()
        limit = self.limits.seconds if seconds is None else seconds
        try:
            reply, interrupted = self._exchange(message, limit, answer)
        except (SessionOverError, ProtocolError) as error:
            self.close()
            raise SessionEndedError(*self._why_over(error, limit)) from error
        if interrupted and reply.get("interrupted") is True:
            raise SessionEndedError("timeout", f"interrupted after {limit:g} s")
        if "refused" in reply:
            raise SandboxError(_printable(str(reply["refused"])[:1000]))
        return reply

    def reset(self) -> None:
        """Start anew: no variables, and no files but the first ones.

        Raises NoIsolationError; SandboxError also if a file cannot be written.
        """
        self.close()
        self._channel = channel = Channel(self._start(), self.limits.output)
        self._number = 0
        try:
            reply, _ = self._exchange({"files": self._files}, START_SECONDS)
            if not {"failed", "refused"} & reply.keys():
                channel.wait_for_worker(START_SECONDS)
        except (SessionOverError, ProtocolError) as error:
            self.close()
            why, printed = self._why_over(error, START_SECONDS)[1], channel.take_output()[1].strip()
            raise SandboxError(f"a session could not be started: {why} {printed.rpartition(chr(10))[2]}") from error
        except BaseException:  # files that are too large, Ctrl-C
            self.close()
            raise
        if "failed" in reply:
            self.close()
            raise NoIsolationError(str(reply["failed"]))
        if "refused" in reply:
            self.close()
            raise SandboxError(f"the files of the session could not be written: {reply['refused']}")

    def close(self) -> None:
        """Kill all processes and wait until they are gone. Closing twice does nothing."""
        if self._channel is not None:
            self._channel.close()

    @property
    def is_over(self) -> bool:
        return self._channel is None or not self._channel.is_open

    def _exchange(self, message: Message, seconds: float, answer: Answer | None = None) -> tuple[Message, bool]:
        if not seconds >= 0:
            raise ValueError(f"timeout={seconds}: must be 0 or more seconds")
        try:
            return self._open_channel().exchange(message, seconds, answer)
        except ValueError:  # nothing was sent
            raise
        except BaseException:  # Ctrl-C, for one: the reply to this request would be taken for that to the next
            self.close()
            raise

    def _why_over(self, error: SessionOverError | ProtocolError, seconds: float) -> tuple[Ended, str]:
        cause, code = (error.cause, error.code) if isinstance(error, SessionOverError) else ("protocol", None)
        limits = self.limits
        text = MESSAGES[cause].format(
            seconds=seconds, grace=GRACE, cpu=limits.cpu_seconds, memory=limits.memory, code=_named(code)
        )
        return "timeout" if cause == "cpu" else cause, text

    def _open_channel(self) -> Channel:
        if self._channel is None or self.is_over:
            raise SandboxError("the session is over; reset() starts it anew")
        return self._channel


def _named(code: int | None) -> str:
    """Return an exit code, with the signal that it stands for: -11 or, at level namespaces, 139 is SIGSEGV."""
    number = -code if code is not None and code < 0 else (code or 0) - 128
    try:
        return f"{code} ({signal.Signals(number).name})"
    except ValueError:
        return str(code)


def _printable(text: str) -> str:
    r"""Return a text that can be encoded: lone surrogates, which JSON permits, become \ud800."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _is_inside(path: str) -> bool:
    """Return whether a path is relative, leads nowhere above its folder and is not the folder itself."""
    parts = PurePosixPath(path).parts
    return "\0" not in path and not path.startswith("/") and bool(parts) and ".." not in parts


def _result(reply: Message) -> Result:
    """Check a reply, which is hostile until then. Raises ProtocolError."""
    texts = [reply.get(name) for name in ("value", "error", "traceback")]
    images = reply.get("images")
    if not isinstance(reply.get("ok"), bool):
        raise ProtocolError("no result")
    if not all(text is None or (isinstance(text, str) and len(text) <= LONGEST_TEXT) for text in texts):
        raise ProtocolError("no text")
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ProtocolError("no images")
    try:
        pictures = tuple(base64.b64decode(image, validate=True) for image in images)
    except ValueError as error:
        raise ProtocolError("no base64") from error
    if not all(picture.startswith(PNG) for picture in pictures):
        raise ProtocolError("no PNG")
    value, failure, trace = (None if text is None else _printable(text) for text in texts)
    return Result(reply["ok"], value=value, error=failure, traceback=trace, images=pictures)
