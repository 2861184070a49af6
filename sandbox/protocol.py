"""Messages between the processes of a sandbox: the length in 4 bytes, then a JSON object.

What a confined process sends is hostile until it has been checked here.
"""

import json
import os
import struct
from dataclasses import dataclass
from typing import Any

HEADER = struct.Struct(">I")
LARGEST = 64 * 2**20
"""bytes of the largest message"""
MOST_ITEMS = 2_000_000
"""commas and brackets of a message: in memory an item takes up to a hundred times the bytes that it has as JSON"""

Message = dict[str, Any]


@dataclass(frozen=True)
class Pipes:
    """One side's ends of the pipes between a session and its supervisor, in the order in which they are sent.

    orders, status: to and from the warden
    the others: to and from the process that runs the code
    """

    orders: int
    status: int
    requests: int
    replies: int
    stdout: int
    stderr: int


class ProtocolError(Exception):
    """The other side sent something that is no message."""


def encode(message: Message) -> bytes:
    """Return a message as bytes. Raises ValueError if it is too large for the other side, or too deep."""
    try:
        body = json.dumps(message).encode("ascii")
    except RecursionError as error:
        raise ValueError("a message that is nested too deeply") from error
    if (reason := _too_large(body)) is not None:
        raise ValueError(reason)
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> Message:
    """Return the message in `body`. Raises ProtocolError if it is not one JSON object, or too large."""
    if (reason := _too_large(body)) is not None:
        raise ProtocolError(reason)
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"no JSON: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError("no JSON object")
    return message


def _too_large(body: bytes) -> str | None:
    """Return why a message is not accepted, or None."""
    if len(body) > LARGEST:
        return f"a message of {len(body):,} bytes; the most is {LARGEST:,}"
    items = sum(map(body.count, (b",", b"[", b"{")))
    return f"a message of about {items:,} items; the most is {MOST_ITEMS:,}" if items > MOST_ITEMS else None


class Reader:
    """Puts messages together from pieces of any size."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> None:
        """Add a piece. Raises ProtocolError if more is waiting than `next` can have asked for."""
        self._buffer += piece
        if len(self._buffer) > 2 * LARGEST:
            raise ProtocolError("messages to nobody")

    def next(self) -> Message | None:
        """Return the next complete message. Raises ProtocolError."""
        if len(self._buffer) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._buffer)
        if length > LARGEST:
            raise ProtocolError(f"a message of {length:,} bytes; the most is {LARGEST:,}")
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return decode(body)

    def missing(self) -> int:
        """Return how many bytes the next message still needs; of its header, as long as that is not complete."""
        if len(self._buffer) < HEADER.size:
            return HEADER.size - len(self._buffer)
        (length,) = HEADER.unpack_from(self._buffer)
        return HEADER.size + length - len(self._buffer)


def receive(descriptor: int) -> Message | None:
    """Wait for a message on a pipe; None at its end. Raises ProtocolError."""
    reader = Reader()
    needed = HEADER.size
    while piece := os.read(descriptor, needed):
        reader.feed(piece)
        if (message := reader.next()) is not None:
            return message
        needed = reader.missing()
    return None


def send(descriptor: int, message: Message) -> None:
    """Write a message to a pipe, waiting as long as it is full. Raises ValueError if it is too large."""
    data = memoryview(encode(message))
    while data:
        data = data[os.write(descriptor, data) :]
