"""The result of one block of code."""

from dataclasses import dataclass
from typing import Literal

Ended = Literal["timeout", "memory", "died", "protocol"]


@dataclass(frozen=True)
class Result:
    """What a block printed, returned and raised. All of it but `ended`, `lost` and `seconds` is made by untrusted code.

    ended:
        None        the block came to its end, by an exception too; the variables are kept
        "timeout"   it was interrupted; the variables are kept unless `lost`
        "memory"    all processes were killed for their memory; the session is over
        "died"      the process is gone: os._exit, a crash, a limit on CPU time; the session is over
        "protocol"  the process sent something that is no reply, and was killed; the session is over
    """

    ok: bool
    """the block ran to its end without an exception"""
    stdout: str = ""
    stderr: str = ""
    value: str | None = None
    """repr of the last statement, if it is an expression and not None"""
    error: str | None = None
    """last line of the traceback, or why the block ended"""
    traceback: str | None = None
    images: tuple[bytes, ...] = ()
    """PNG of every matplotlib figure that was open at the end, in the order of their numbers"""
    seconds: float = 0.0
    """wall-clock time, measured outside"""
    ended: Ended | None = None
    lost: bool = False
    """whether the session is over: its variables are lost, and only `reset` and `close` are possible"""
