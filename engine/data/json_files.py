"""JSON files, read piece by piece however long they are: a record a line, a list of records, or one record alone.

A list shows at its first character, whatever the file is called. A line that is no record leaves the next ones
readable; a list that is broken is not read beyond that place.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from chatml import RecordError
from chatml.messages import kind
from config import RecipeError

Records = Iterator[tuple[str, dict[str, Any] | RecordError]]
"""where each record stands, and what it holds; in the place of a record that cannot be read, why"""

BLOCK_BYTES = 1 << 20  # bytes that are read at a time
MAX_RECORD_BYTES = 1 << 28  # bytes of one record, or of one line: a file without line ends is not to fill the memory
BOM = codecs.BOM_UTF8


def json_records(path: str, file: BinaryIO, *, lines: bool = False) -> Records:
    """The records of a JSON file; with `lines` a record never goes on in the next line, as in JSONL.

    Raises RecipeError where what follows cannot be read either.
    """
    head, line = b"", 0
    while not head.strip():
        line += 1
        head = file.readline(BLOCK_BYTES)
        if not head:
            return
        if line == 1:
            head = head.removeprefix(BOM)
    if head.lstrip().startswith(b"["):
        yield from _list(path, _Text(path, head, file, line))
        return
    if not head.endswith(b"\n"):
        head += file.readline(MAX_RECORD_BYTES)
    if not lines and _goes_on(head):
        yield from _alone(path, _Text(path, head, file, line))
        return
    while head:
        if len(head) >= MAX_RECORD_BYTES:
            raise RecipeError(
                f"{path}:{line}: a line of more than {MAX_RECORD_BYTES >> 20} MiB; a record stands in one line, "
                "or all of them in one list"
            )
        if head.strip():
            yield f"{path}:{line}", _line(head)
        line, head = line + 1, file.readline(MAX_RECORD_BYTES)


def decoded(data: bytes) -> str:
    """UTF-8 as text. Raises RecordError."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8") from None


def _line(line: bytes) -> dict[str, Any] | RecordError:
    try:
        return _object(json.loads(decoded(line)))
    except json.JSONDecodeError as error:
        return RecordError(
            f"not JSON ({error.msg}, column {error.colno}); a record stands in one line, or all of them in one list"
        )
    except RecordError as error:
        return error
    except (ValueError, RecursionError) as error:
        return RecordError(_beyond_json(error))


def _object(record: Any) -> dict[str, Any] | RecordError:
    if isinstance(record, dict):
        return record
    return RecordError(f"{kind(record)}; a record is an object with named fields")


def _beyond_json(error: Exception) -> str:
    """What Python's reader of JSON refuses although it may be JSON."""
    if isinstance(error, RecursionError):
        return "lists or objects are nested too deep; flatten them"
    return "a number of more digits than can be read; write it as text"


def _goes_on(line: bytes) -> bool:
    """Whether a line is the beginning of JSON that goes on in the next one."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip())
    except (ValueError, RecursionError):
        pass
    return False


def _alone(path: str, text: "_Text") -> Records:
    """One record that is written over several lines."""
    where = f"{path}:{text.line}"
    yield where, _object(text.value())
    if text.next():
        raise RecipeError(
            f"{path}:{text.line}: more text after the end of a record; write one record a line, or all in a list"
        )


def _list(path: str, text: "_Text") -> Records:
    """The records of a list one by one, so that the line of each is known."""
    text.next()
    text.step(1)
    while text.next() != "]":
        where = f"{path}:{text.line}"
        yield where, _object(text.value())
        after = text.next()
        if after == ",":
            text.step(1)
        elif after != "]":
            raise RecipeError(
                f"{path}:{text.line}: not JSON (no comma and no end of the list after a record); "
                "correct the file there, or make it again"
            )
    text.step(1)
    if text.next():
        raise RecipeError(f"{path}:{text.line}: more text after the end of the list; put all records into one list")


class _Text:
    """A file's text, decoded a block at a time; what has been read is let go."""

    def __init__(self, path: str, head: bytes, file: BinaryIO, line: int) -> None:
        self.path, self.file = path, file
        self.line = line
        """the line, from 1, that the next character stands in"""
        self._text, self._at = "", 0
        self._before = 0  # characters of the present line that have been let go
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decoded_to = line  # the line that the next byte stands in
        self._decode(head)

    def next(self) -> str:
        """The next character that is no white space, and step up to it; nothing at the file's end."""
        while True:
            self.step(_SPACE.match(self._text, self._at).end() - self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """The JSON value that begins here, and step over it."""
        while True:
            try:
                value, stop = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not (self._cut(error) and self._grow()):
                    line_start = self._text.rfind("\n", 0, error.pos) + 1
                    column = error.pos - line_start + 1 + (0 if line_start else self._before)
                    line = self.line + self._text.count("\n", self._at, error.pos)
                    raise RecipeError(
                        f"{self.path}:{line}: not JSON ({error.msg}, column {column}); "
                        "correct the file there, or make it again"
                    ) from None
            except (ValueError, RecursionError) as error:
                raise RecipeError(f"{self.path}:{self.line}: {_beyond_json(error)}") from None
            else:
                self.step(stop - self._at)
                return value

    def step(self, characters: int) -> None:
        stop = self._at + characters
        self.line += self._text.count("\n", self._at, stop)
        self._at = stop

    def _cut(self, error: json.JSONDecodeError) -> bool:
        """Whether an error may come from where the text ends by now: in a string, a number, an escape, a word."""
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - 16

    def _grow(self) -> bool:
        """Twice the text from here on, so that a long record is not tried again for each block; false at the end."""
        known = len(self._text) - self._at
        if known > MAX_RECORD_BYTES:
            raise RecipeError(
                f"{self.path}:{self.line}: a record of more than {MAX_RECORD_BYTES >> 20} MiB; split it, or correct "
                "the file"
            )
        grown = False
        while len(self._text) - self._at < 2 * known + 1 and self._more():
            grown = True
        return grown

    def _more(self) -> bool:
        """One more block, and what has been read is let go; false at the file's end."""
        block = self.file.read(BLOCK_BYTES)
        if block:
            line_start = self._text.rfind("\n", 0, self._at) + 1
            self._before = self._at - line_start + (0 if line_start else self._before)
            self._text, self._at = self._text[self._at :], 0
        self._decode(block)
        return bool(block)

    def _decode(self, block: bytes) -> None:
        try:
            new = self._decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line = self._decoded_to + error.object.count(b"\n", 0, error.start)
            byte = error.object[error.start]
            raise RecipeError(f"{self.path}:{line}: not UTF-8 (byte 0x{byte:02x}); save the file as UTF-8") from None
        self._decoded_to += block.count(b"\n")
        self._text += new


_DECODER, _SPACE = json.JSONDecoder(), re.compile(r"[ \t\r\n]*")
