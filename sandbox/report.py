"""What a session reports of a block, from inside: figures, threads and processes that go on, exceptions."""

import io
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress

from sandbox.protocol import Message

LONGEST_TEXT = 100_000
"""characters of a value or a traceback that are kept"""
MOST_IMAGES = 20
OURS = os.path.dirname(__file__) + os.sep


def figures(*, draw: bool) -> Iterator[bytes]:
    """Yield the open figures of matplotlib as PNG, and close them. After an interrupt there is no time to draw them."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    numbers = pyplot.get_fignums()
    drawn = numbers[:MOST_IMAGES] if draw else []
    try:
        for number in drawn:
            target = io.BytesIO()
            pyplot.figure(number).savefig(target, format="png")
            yield target.getvalue()
    finally:
        pyplot.close("all")
    if len(numbers) > len(drawn):
        note(
            f"{plural(len(numbers) - len(drawn), 'figure')} left out; the most is {MOST_IMAGES} a block"
            if draw
            else f"{plural(len(numbers), 'figure')} left out: the block was interrupted"
        )


def report_survivors() -> None:
    threads = sum(thread is not threading.main_thread() for thread in threading.enumerate())
    processes = other_processes() if os.getppid() == 1 else 0
    found = [plural(threads, "thread")] * (threads > 0) + [plural(processes, "process")] * (processes > 0)
    if found:
        note(f"still running after the block: {', '.join(found)}")


def other_processes() -> int:
    """Return how many processes a PID namespace has besides its first and this one; 0 if /proc could not be mounted."""
    count = 0
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        with suppress(OSError):
            if name.isdecimal() and int(name) not in (1, os.getpid()):
                with open(f"/proc/{name}/stat") as file:
                    count += file.read().rpartition(")")[2].split()[0] != "Z"
    return count


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}{'es' if noun.endswith('s') else 's'}"


def note(text: str) -> None:
    """Write a line of our own to stderr."""
    with suppress(OSError):
        os.write(2, f"[sandbox: {text}]\n".encode())


def describe(error: BaseException) -> Message:
    """Return the traceback from the block on, without our own frames above and below it, and its last line."""
    frames = error.__traceback__
    while frames is not None and not frames.tb_frame.f_code.co_filename.startswith("<block"):
        frames = frames.tb_next
    last_frame = frames
    while last_frame is not None and last_frame.tb_next is not None:
        if last_frame.tb_next.tb_frame.f_code.co_filename.startswith(OURS):
            last_frame.tb_next = None
        last_frame = last_frame.tb_next
    try:
        text = "".join(traceback.format_exception(type(error), error, frames))
        last = traceback.format_exception_only(error)[-1].strip()
    except BaseException:  # raised by the exception's own methods
        text = last = type(error).__name__
    return {"error": cut(last), "traceback": cut(text)}


def cut(text: str) -> str:
    rest = len(text) - LONGEST_TEXT
    return text if rest <= 0 else f"{text[:LONGEST_TEXT]}… [{rest:,} more characters]"
