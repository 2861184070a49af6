"""Run code that a model wrote, isolated: see docs/sandbox.md.

    with Sandbox() as box, box.session() as session:
        result = session.run("print(1 + 1)")

Imports nothing of the other packages, and no torch.
"""

from sandbox.box import MODULES, Isolation, Sandbox
from sandbox.check import Problem, Verdict, check, check_all
from sandbox.confine import Level
from sandbox.errors import NoIsolationError, SandboxError
from sandbox.limits import Limits
from sandbox.result import Ended, Result
from sandbox.session import Session, SessionEndedError

__all__ = [
    "MODULES",
    "Ended",
    "Isolation",
    "Level",
    "Limits",
    "NoIsolationError",
    "Problem",
    "Result",
    "Sandbox",
    "SandboxError",
    "Session",
    "SessionEndedError",
    "Verdict",
    "check",
    "check_all",
]
