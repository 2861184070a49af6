"""The supervisor's side of one session: requests and replies, output, time, and the end of its processes."""

import json
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import sandbox.warden as warden
from sandbox.protocol import Message, Pipes, ProtocolError, Reader, encode
from sandbox.result import Ended

Answer = Callable[[Message], Message]
Cause = Ended | Literal["cpu"]

GRACE = 1.0
"""seconds between the interruption of a block and its end by force"""
CLOSING_SECONDS = 10.0
LONGEST_WAIT = 3600.0
"""seconds; the system call takes no more than 24 days"""
CHUNK = 2**16
MOST_AFTER_REPLY = 2**20
"""bytes that are read of a stream after the reply: a thread may go on printing for ever"""
CPU_LIMIT_CODES = (-24, 128 + 24)
"""exit codes of a process that died of SIGXCPU; at level namespaces the second"""
KILLED_CODES = (-9, 128 + 9)
"""the same of SIGKILL"""


@dataclass
class Output:
    """The first bytes of a stream; what comes after them is counted."""

    most: int
    kept: bytearray = field(default_factory=bytearray)
    left_out: int = 0

    def add(self, piece: bytes) -> None:
        room = max(0, self.most - len(self.kept))
        self.kept += piece[:room]
        self.left_out += len(piece[room:])

    def text(self) -> str:
        text = self.kept.decode("utf-8", "replace")
        return f"{text}\n[sandbox: {self.left_out:,} more bytes were left out]\n" if self.left_out else text


class SessionOverError(Exception):
    """The processes of the session are gone, or must go."""

    def __init__(self, cause: Cause, code: int | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        self.code = code


class Channel:
    """Talks to one session through its pipes, which it owns."""

    def __init__(self, pipes: Pipes, most_output: int) -> None:
        self._pipes = pipes
        self._most_output = most_output
        self._reader = Reader()
        self._report = bytearray()
        self._last_report: Message = {}
        self._number = 0
        self.is_open = True
        self._streams = [pipes.stdout, pipes.stderr]
        """those that are still open on the other side"""
        self._outputs = {descriptor: Output(most_output) for descriptor in self._streams}
        for descriptor in vars(pipes).values():
            os.set_blocking(descriptor, False)

    def exchange(self, message: Message, seconds: float, answer: Answer | None = None) -> tuple[Message, bool]:
        """Send a request; return the reply, and whether the code was to be interrupted before it came.

        seconds: wall-clock time until the interruption; GRACE later all processes are killed
        answer: answers what the code asks in the meantime; it may call `exchange` itself
        Raises SessionOverError and ProtocolError, after which the session is over; ValueError for a message that is too
        large, which is not sent.
        """
        number = self._number + 1
        pending = memoryview(encode(message | {"id": number}))
        self._number = number
        deadline = time.monotonic() + seconds
        started = late = interrupted = False
        while True:
            if (reply := self._reader.next()) is not None:
                if isinstance(reply.get("ask"), dict) and answer is not None:
                    if pending:
                        raise ProtocolError("a question before the last one was answered")
                    pending = memoryview(_encode_answer(answer(reply["ask"])))
                    if not self.is_open:  # closed by an exchange within `answer`
                        raise SessionOverError("died")
                elif reply == {"started": number} and not started:
                    started = True
                else:
                    break
            left = deadline - time.monotonic()
            if left <= 0 and late:
                raise SessionOverError("timeout")
            if left <= 0:
                late, deadline = True, time.monotonic() + GRACE
            if late and started and not interrupted:  # before the start it would be lost
                self._order(warden.INTERRUPT)
                interrupted = True
            # After one message there may already be another.
            pending = self._step(pending, max(0.0, left) if reply is None else 0.0)
        if interrupted:
            # The signal may still be on its way, and would interrupt the next block.
            self._next_report(CLOSING_SECONDS, "interrupted")
        if "failed" not in reply and (pending or reply.get("id") != number):
            raise ProtocolError("a reply to no request")
        self._read_rest()
        return reply, interrupted

    def _step(self, pending: memoryview, seconds: float) -> memoryview:
        """Wait for one of the pipes and serve those that are ready; return what is still to be sent.

        Raises SessionOverError if the reply pipe is closed.
        """
        poll = select.poll()
        for descriptor in (self._pipes.replies, *self._streams):
            poll.register(descriptor, select.POLLIN)
        if pending:
            poll.register(self._pipes.requests, select.POLLOUT)
        ready = {descriptor for descriptor, _ in poll.poll(min(seconds, LONGEST_WAIT) * 1000)}
        if self._pipes.requests in ready:
            try:
                pending = pending[os.write(self._pipes.requests, pending[:CHUNK]) :]
            except BrokenPipeError:
                pending = pending[:0]
        for descriptor in ready & set(self._streams):
            if piece := _read(descriptor):
                self._outputs[descriptor].add(piece)
            else:  # closed by the code
                self._streams.remove(descriptor)
        if self._pipes.replies in ready:
            piece = _read(self._pipes.replies)
            if not piece:
                raise self._end()
            self._reader.feed(piece)
        return pending

    def _read_rest(self) -> None:
        """Read what was printed before the reply."""
        for descriptor, output in self._outputs.items():
            before = len(output.kept) + output.left_out
            while (piece := _read(descriptor)) and len(output.kept) + output.left_out - before < MOST_AFTER_REPLY:
                output.add(piece)

    def take_output(self) -> tuple[str, str]:
        """Return what has been printed to stdout and stderr since the last call."""
        stdout, stderr = (output.text() for output in self._outputs.values())
        self._outputs = {descriptor: Output(self._most_output) for descriptor in self._outputs}
        return stdout, stderr

    def wait_for_worker(self, seconds: float) -> None:
        """Wait until the warden knows the process that runs the code. Raises SessionOverError."""
        if "worker" not in self._next_report(seconds, "worker"):
            raise SessionOverError("died")

    def _end(self) -> SessionOverError:
        """Return how the session ended; its reply pipe is closed."""
        report = self._next_report(GRACE, "ended")
        goes_on = not report
        if goes_on:  # the code has closed the pipe
            self._order(warden.KILL)
            report = self._next_report(CLOSING_SECONDS, "ended")
        code = report.get("code")
        if report.get("ended") == "memory":
            return SessionOverError("memory", code)
        if goes_on and code in KILLED_CODES:
            return SessionOverError("protocol", code)
        return SessionOverError("cpu" if code in CPU_LIMIT_CODES else "died", code)

    def _next_report(self, seconds: float, key: str) -> Message:
        """Return the next line of the warden that has `key`, or is its last; {} if none comes. It can be trusted."""
        deadline = time.monotonic() + seconds
        while not self._last_report:
            line, newline, rest = self._report.partition(b"\n")
            if newline:
                self._report = rest
                report: Message = json.loads(line)
                if "ended" in report:
                    self._last_report = report
                if key in report:
                    return report
                continue
            piece = _wait_and_read(self._pipes.status, deadline - time.monotonic())
            if not piece:
                return {}
            self._report += piece
        return self._last_report

    def _order(self, order: bytes) -> None:
        with suppress(BrokenPipeError):
            os.write(self._pipes.orders, order)

    def close(self) -> None:
        """Kill all processes, wait until they are gone, and keep what they had printed. Closing twice does nothing."""
        if not self.is_open:
            return
        self.is_open = False
        self._order(warden.KILL)
        while _wait_and_read(self._pipes.status, CLOSING_SECONDS):  # the warden ends last
            pass
        self._read_rest()
        for descriptor in vars(self._pipes).values():
            os.close(descriptor)


def _read(descriptor: int) -> bytes:
    """Return what is in a pipe; nothing if it is empty or closed."""
    try:
        return os.read(descriptor, CHUNK)
    except BlockingIOError:
        return b""


def _wait_and_read(descriptor: int, seconds: float) -> bytes:
    """Return what is in a pipe as soon as there is something; nothing if it is closed or the time is over."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return _read(descriptor) if poll.poll(max(0.0, seconds) * 1000) else b""


def _encode_answer(answer: Message) -> bytes:
    try:
        return encode(answer)
    except ValueError as error:  # grown by being encoded anew
        raise ProtocolError(str(error)) from error
