"""Test code that a model wrote, where the code cannot print or forge the verdict.

The tests run in a second confined process and call the candidate's functions over pipes (sandbox/remote.py). Of the
candidate they see values: numbers, texts, containers of them. The candidate never sees the tests, but it does see the
arguments of each call. What remains possible:

- A candidate can return whatever the tests compare with, if it can guess that.
- An object of the candidate's own class never equals a value, is never in order with one and contains only what
  iterating over it yields. But its methods are the candidate's: `candidate(x).startswith("a")` is what the candidate
  says, and so is whether two of its objects are equal.
- Weak tests stay weak: a loop over what the candidate returned checks nothing if that is empty, and numpy compares an
  empty array with any number.
- A name that the tests use and do not define is the candidate's, unless `names` leaves it out: a helper function of
  the prompt, for example.
- Code and tests at level "none" are not separated at all.
"""

import atexit
import builtins
import math
import os
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from sandbox.box import Sandbox
from sandbox.errors import SandboxError
from sandbox.limits import Limits
from sandbox.protocol import Message
from sandbox.result import Ended, Result
from sandbox.session import Session, SessionEndedError

WALL_FACTOR = 5.0
"""seconds of wall-clock time per second of `timeout`: a busy machine must not decide"""
MOST_NAMED = 5
"""failing reference solutions that an error names"""


@dataclass(frozen=True)
class Verdict:
    """Whether the tests passed; if not, whether the code failed before the tests or with them, and why."""

    passed: bool
    failed: Literal["code", "tests"] | None = None
    error: str | None = None
    ended: Ended | None = None
    """of the candidate's process, or of the tests'; "timeout" also if it was interrupted"""
    seconds: float = 0.0
    """wall-clock time of all"""


@dataclass(frozen=True)
class Problem:
    """A candidate, its tests, and a solution that is known to pass them."""

    id: str
    code: str
    tests: str
    reference: str
    names: Collection[str] | None = None
    """as in `check`"""


_lock = threading.Lock()
_default: dict[int, Sandbox] = {}
"""process -> its sandbox; a child process needs one of its own"""


def default_sandbox() -> Sandbox:
    """Return the sandbox that `check` uses unless it is given one. Raises NoIsolationError."""
    with _lock:
        if os.getpid() not in _default:
            _default[os.getpid()] = box = Sandbox()
            atexit.register(box.close)
        return _default[os.getpid()]


def check(
    code: str,
    tests: str,
    timeout: float,
    *,
    names: Collection[str] | None = None,
    box: Sandbox | None = None,
) -> Verdict:
    """Run `code`, then `tests`, which call what it has defined; they pass if they raise nothing.

    timeout: CPU seconds of each of the two processes, rounded up. The wall-clock time may be WALL_FACTOR times as long
    names: names of the candidate that the tests see; default: all but those of Python's builtins (a candidate could
        otherwise define `all`)
    Raises SandboxError if no session can be started.
    """
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout={timeout}: must be a number of seconds greater than 0")
    box = box or default_sandbox()
    limits = Limits(cpu_seconds=math.ceil(timeout))
    started = time.monotonic()
    with box.session(limits=limits) as candidate, box.session(limits=limits) as tester:
        failed, error, ended = _Check(candidate, tester, time.monotonic() + WALL_FACTOR * timeout).run(
            code, tests, names
        )
    if ended == "timeout":
        error = f"timeout: more than {timeout:g} s of CPU time, or {WALL_FACTOR * timeout:g} s in all"
    return Verdict(failed is None, failed, error, ended, time.monotonic() - started)


def check_all(
    problems: Sequence[Problem], timeout: float, *, workers: int | None = None, box: Sandbox | None = None
) -> list[Verdict]:
    """Check the reference solutions of all problems, then their candidates, and return the candidates' verdicts.

    timeout, box: as in `check`
    workers: problems at a time; default: one for each processor that this process may use
    Raises SandboxError if a reference solution fails; no candidate is checked then: the tests or the machine are at
    fault, and scores would be too low.
    """
    box = box or default_sandbox()
    references = {(problem.reference, problem.tests): problem for problem in problems}

    def check_candidate(problem: Problem) -> Verdict:
        return check(problem.code, problem.tests, timeout, names=problem.names, box=box)

    def check_reference(problem: Problem) -> Verdict:
        return check(problem.reference, problem.tests, timeout, names=problem.names, box=box)

    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        verdicts = zip(references.values(), pool.map(check_reference, references.values()), strict=True)
        failing = [f"{problem.id}: {verdict.error}" for problem, verdict in verdicts if not verdict.passed]
        if failing:
            more = f"; and {len(failing) - MOST_NAMED} more" if len(failing) > MOST_NAMED else ""
            raise SandboxError(
                f"{len(failing)} of {len(references)} reference solutions fail, so no candidate was scored: "
                f"{'; '.join(failing[:MOST_NAMED])}{more}"
            )
        return list(pool.map(check_candidate, problems))


Failure = tuple[Literal["code", "tests"] | None, str | None, Ended | None]


class _Check:
    """One candidate, its tests, and the calls between them."""

    def __init__(self, candidate: Session, tester: Session, deadline: float) -> None:
        self.candidate = candidate
        self.tester = tester
        self.deadline = deadline
        self.lost: SessionEndedError | None = None
        """why the candidate, or the tests in a callback, answered no more"""

    def left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def run(self, code: str, tests: str, names: Collection[str] | None) -> Failure:
        """Return (None, None, None) if the tests pass."""
        try:
            self.candidate.run("__name__ = 'candidate'", self.left())  # no `if __name__ == "__main__"`
            result = self.candidate.run(code, self.left())
            if not _succeeded(result):
                return "code", result.error, result.ended
            exported = self.call({"call": {"do": "names"}}).get("names", {})
            bound = {name: exported[name] for name in exported if _may_bind(name, names)}
            self.tester.request({"bind": bound}, self.left())
            result = self.tester.run(tests, self.left(), self.call)
        except SessionEndedError as error:
            return "tests", str(self.lost or error), (self.lost or error).ended
        except (SandboxError, ValueError) as error:  # what the candidate sent for its names is no value, or too large
            return "code", str(error), None
        if self.lost is not None:
            return "tests", str(self.lost), self.lost.ended
        return (None, None, None) if _succeeded(result) else ("tests", result.error, result.ended)

    def call(self, message: Message) -> Message:
        """Have the candidate answer a call of the tests. Once it has ended, or lied, nothing passes any more."""
        try:
            return _answer(self.candidate.request(message, self.left(), self.call_back))
        except SessionEndedError as error:
            self.lost = self.lost or error
        except (SandboxError, ValueError) as error:  # over before, or too large
            self.lost = self.lost or SessionEndedError("died", str(error))
        return {"raised": ["BaseException", "the candidate's process has ended"]}

    def call_back(self, message: Message) -> Message:
        """Have the tests answer a call of the candidate."""
        try:
            return _answer(self.tester.request({"callback": message}, self.left(), self.call))
        except SessionEndedError as error:
            self.lost = self.lost or error
            raise


def _succeeded(result: Result) -> bool:
    return result.ok and result.ended is None


def _may_bind(name: str, names: Collection[str] | None) -> bool:
    """Return whether the tests see a name. What the candidate sends as its names may be anything: __builtins__, say."""
    if not name.isidentifier() or name.startswith("__"):
        return False
    return name in names if names is not None else not hasattr(builtins, name)


def _answer(reply: Message) -> Message:
    """Return the answer in a reply without anything else. Raises SessionEndedError if there is none."""
    match reply:
        case {"raised": [str() as kind, str() as text]}:
            return {"raised": [kind, text]}
        case {"names": dict() as names}:
            return {"names": names}
        case {"value": value, **rest} if isinstance(changed := rest.get("changed", []), list):
            return {"value": value, "changed": changed}
    raise SessionEndedError("protocol", "the process sent something that is no answer")
