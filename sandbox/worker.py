"""The confined process that runs the code, block by block. Untrusted code shares this process: nothing here is secret.

It reads requests from one pipe and writes replies to another (sandbox/protocol.py):

    {"files": {name: base64}}                    -> {"done": true}
    {"code": text, "number": n}                  -> {"ok", "value", "error", "traceback", "images", "interrupted"},
                                                    and {"started": id} before
    {"take": pattern, "most": bytes}             -> {"files": {name: base64}} or {"too_large": true}
    {"bind": names}, {"call": ...}               -> see sandbox/remote.py

{"refused": text} is the reply to a request that failed, unless it was a block or a call.
"""

import ast
import base64
import io
import linecache
import os
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import sandbox.files as files
import sandbox.protocol as protocol
from sandbox.candidate import Candidate, describe_raised
from sandbox.protocol import Message
from sandbox.remote import Caller
from sandbox.report import cut, describe, figures, note, report_survivors

RESERVE = 4 * 2**20
"""bytes of memory that are kept to report a MemoryError with"""


class Stream(io.TextIOWrapper):
    """A text stream that is never behind: what was printed before os._exit or a crash is not lost."""

    def write(self, text: str) -> int:
        count = super().write(text)
        self.flush()
        return count


def open_stream(descriptor: int) -> Stream:
    try:
        raw = io.FileIO(descriptor, "w", closefd=False)
    except OSError:  # closed by the code, and its copy too
        raw = io.FileIO(os.devnull, "w")
    return Stream(io.BufferedWriter(raw), "utf-8", "backslashreplace")


def is_usable(streams: list[Stream]) -> bool:
    try:
        return bool(streams) and not streams[0].closed and os.fstat(streams[0].fileno()) is not None
    except (OSError, ValueError):  # the descriptor is closed, or the stream detached
        return False


class Worker:
    """Runs blocks in one namespace, the module __main__."""

    def __init__(self, requests: int, replies: int, stdout: int, stderr: int) -> None:
        self.requests = requests
        self.replies = replies
        self.streams = {"stdout": (stdout, 1), "stderr": (stderr, 2)}
        self.opened: dict[str, list[Stream]] = {name: [] for name in self.streams}
        self.home = os.getcwd()
        self.process = os.getpid()
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        self.names = module.__dict__
        self.candidate = Candidate(self.names, self.ask)
        self.caller = Caller(self.ask)
        self.asking = threading.Lock()
        self.is_interruptible = False
        self.interrupted = False
        self.reserve = bytes(RESERVE)

    def ask(self, message: Message) -> Message:
        """Ask the supervisor in the middle of a block or call, and return the answer. Serve calls that come before."""
        message = {"ask": message}
        while True:
            before, self.is_interruptible = self.is_interruptible, False
            with self.asking:
                protocol.send(self.replies, message)
                answer = protocol.receive(self.requests)
            if answer is None:
                os._exit(0)
            self.is_interruptible = before
            if before:
                self.end_if_interrupted()
            if "callback" in answer:
                message = self.caller.call_back(answer["callback"])
            elif "call" in answer:  # by a callback
                message = self.candidate.answer_safely(answer["call"])
            else:
                return answer
            message |= {"id": answer["id"], "interrupted": self.interrupted}

    def answer(self, request: Message) -> Message:
        """Do what the supervisor requests, and return the reply."""
        if "code" not in request and "call" not in request:
            try:
                return self.answer_simple(request)
            except Exception as error:
                return {"refused": traceback.format_exception_only(error)[-1].strip()}
        self.prepare()
        protocol.send(self.replies, {"started": request["id"]})
        if "code" in request:
            reply = self.run(request["code"], f"<block {request['number']}>")
        else:
            replies: list[Message] = []
            raised = self.attempt(lambda: replies.append(self.call(request["call"])))
            reply = replies[0] if raised is None else describe_raised(raised)
        return reply | {"interrupted": self.interrupted}

    def answer_simple(self, request: Message) -> Message:
        if "files" in request:
            return files.write(self.home, request["files"])
        if "take" in request:
            return files.read(self.home, request["take"], request["most"])
        self.names.update(self.caller.proxies(request["bind"]))
        return {"done": True}

    def run(self, code: str, name: str) -> Message:
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        values: list[str | None] = [None]
        images: list[bytes] = []
        errors = [self.attempt(lambda: values.append(self.execute(code, name)))]
        self.end_if_forked(errors[0])
        errors.append(self.attempt(lambda: images.extend(figures(draw=not self.interrupted))))
        errors.append(self.attempt(report_survivors))
        raised = next((error for error in errors if error is not None), None)
        reply = {
            "ok": raised is None,
            "value": values[-1],
            "images": [base64.b64encode(image).decode() for image in images],
        }
        return reply if raised is None else reply | describe(raised)

    def execute(self, code: str, name: str) -> str | None:
        """Run a block; return the repr of its last statement if that is an expression and not None."""
        self.end_if_interrupted()
        tree = ast.parse(code, name)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), self.names)
        if last is None:
            return None
        assert isinstance(last, ast.Expr)
        value = eval(compile(ast.Expression(last.value), name, "eval"), self.names)
        return None if value is None else cut(repr(value))

    def call(self, call: Message) -> Message:
        self.end_if_interrupted()
        return self.candidate.answer(call)

    def end_if_interrupted(self) -> None:
        """Raise what SIGINT would have raised if it had come a little later."""
        if self.interrupted:
            raise KeyboardInterrupt

    def attempt(self, action: Callable[[], None]) -> BaseException | None:
        """Run untrusted code, which SIGINT interrupts; return what it raised."""
        try:
            self.is_interruptible = True
            try:
                action()
            finally:
                self.is_interruptible = False
        except BaseException as error:
            if isinstance(error, MemoryError):
                self.reserve = b""
            return error
        return None

    def on_sigint(self, *_: object) -> None:
        """Interrupt the block, which has run for too long. Between two pieces of untrusted code only take note."""
        self.interrupted = True
        if self.is_interruptible:
            raise KeyboardInterrupt

    def prepare(self) -> None:
        """Undo what earlier blocks may have done to the streams and to SIGINT."""
        for name, (copy, descriptor) in self.streams.items():
            with suppress(OSError):
                os.dup2(copy, descriptor)
            if not is_usable(self.opened[name][-1:]):
                # The one before is kept: a thread may be using it.
                self.opened[name].append(open_stream(descriptor))
            setattr(sys, name, self.opened[name][-1])
            setattr(sys, f"__{name}__", self.opened[name][-1])
        sys.stdin = io.StringIO()
        self.interrupted = False
        signal.signal(signal.SIGINT, self.on_sigint)
        with suppress(MemoryError):
            self.reserve = self.reserve or bytes(RESERVE)

    def end_if_forked(self, error: BaseException | None) -> None:
        """End a child process that has come to the end of the block; it must not answer in place of its parent."""
        if os.getpid() != self.process:
            if error is not None and not isinstance(error, SystemExit):
                traceback.print_exception(error)
            flush()
            os._exit(0 if error is None else 1)


def serve(requests: int, replies: int, stdout: int, stderr: int) -> NoReturn:
    """Answer requests until the pipe is closed, then end the process."""
    try:
        worker = Worker(requests, replies, stdout, stderr)
        worker.prepare()
        while (request := protocol.receive(requests)) is not None:
            answer(worker, request)
    except BaseException as error:  # the code has broken what the lines above need, or the pipes
        with suppress(BaseException):
            note(f"the block cannot be answered: {type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


def answer(worker: Worker, request: Message) -> None:
    reply = worker.answer(request)
    worker.end_if_forked(None)
    flush()
    signal.signal(signal.SIGINT, worker.on_sigint)
    try:
        protocol.send(worker.replies, reply | {"id": request["id"]})
    except (ValueError, MemoryError) as error:
        text = str(error) or "MemoryError: the result is too large"
        substitute = {"ok": False, "images": [], "error": text, "raised": ["ValueError", text]}
        substitute |= {} if "call" in request else {"refused": text}
        protocol.send(worker.replies, substitute | {"interrupted": worker.interrupted, "id": request["id"]})


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(BaseException):
            stream.flush()
