"""Read JSON files in blocks, whatever their size: one record per line, a list of records, or a single record.

A file that starts with `[` is read as a list, whatever its name. After an invalid line reading continues with
the next one; after an error in a list it stops.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from chatml import RecordError
from chatml.messages import json_type
from config import RecipeError

Records = Iterator[tuple[str, dict[str, Any] | RecordError]]
"""(place, record) pairs; in place of a record that cannot be read, a RecordError with the reason"""

BLOCK_BYTES = 1 << 20  # read at a time
MAX_RECORD_BYTES = 1 << 28  # limit for a record or a line, so that a file without line ends does not fill the memory
BOM = codecs.BOM_UTF8


def json_records(path: str, file: BinaryIO, *, lines: bool = False) -> Records:
    """Yield (place, record) of the records of a JSON file. With `lines`, a record never spans lines, as in JSONL.

    Raises RecipeError if the rest of the file cannot be read after an error.
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
                f"{path}:{line}: a line of more than {MAX_RECORD_BYTES >> 20} MiB; write one record per line, "
                "or all records in one list"
            )
        if head.strip():
            yield f"{path}:{line}", _line(head)
        line, head = line + 1, file.readline(MAX_RECORD_BYTES)


def decode_utf8(data: bytes) -> str:
    """Decode UTF-8. Raises RecordError for invalid bytes."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8") from None


def _line(line: bytes) -> dict[str, Any] | RecordError:
    try:
        return _object(json.loads(decode_utf8(line)))
    except json.JSONDecodeError as error:
        return RecordError(
            f"not JSON ({error.msg}, column {error.colno}); write one record per line, or all records in one list"
        )
    except RecordError as error:
        return error
    except (ValueError, RecursionError) as error:
        return RecordError(_beyond_json(error))


def _object(record: Any) -> dict[str, Any] | RecordError:
    if isinstance(record, dict):
        return record
    return RecordError(f"{json_type(record)}; a record is an object with named fields")


def _beyond_json(error: Exception) -> str:
    """Return the message for what may be valid JSON but is rejected by Python's parser."""
    if isinstance(error, RecursionError):
        return "lists or objects are nested too deeply; flatten them"
    return "a number has too many digits to be read; write it as a string"


def _goes_on(line: bytes) -> bool:
    """Return whether a line is the beginning of a JSON value that continues on the next line."""
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc.rstrip())
    except (ValueError, RecursionError):
        pass
    return False


def _alone(path: str, text: "_Text") -> Records:
    """Yield a single record that spans several lines."""
    where = f"{path}:{text.line}"
    yield where, _object(text.value())
    if text.next():
        raise RecipeError(
            f"{path}:{text.line}: more text after the end of a record; "
            "write one record per line, or all records in one list"
        )


def _list(path: str, text: "_Text") -> Records:
    """Yield the records of a list one by one, each with its line."""
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
                "correct the file there, or regenerate it"
            )
    text.step(1)
    if text.next():
        raise RecipeError(f"{path}:{text.line}: more text after the end of the list; put all records into one list")


class _Text:
    """A file's text, decoded block by block; text that has been parsed is discarded."""

    def __init__(self, path: str, head: bytes, file: BinaryIO, line: int) -> None:
        self.path, self.file = path, file
        self.line = line
        """the line number, from 1, of the next character"""
        self._text, self._at = "", 0
        self._before = 0  # discarded characters of the current line
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._decoded_to = line  # the line number of the next byte
        self._decode(head)

    def next(self) -> str:
        """Skip white space and return the next character, without consuming it; "" at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            assert space is not None  # it also matches nothing
            self.step(space.end() - self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def value(self) -> Any:
        """Parse and consume the JSON value at the current position. Raises RecipeError if it is not valid."""
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
                        "correct the file there, or regenerate it"
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
        """Return whether an error may come from the end of the text so far, in a string, number, escape or word."""
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - 16

    def _grow(self) -> bool:
        """Double the unparsed text, so that a long record is not parsed again per block; False at the file's end."""
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
        """Read one more block and discard text that has been parsed; False at the file's end."""
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
