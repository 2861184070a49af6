"""Where records come from: files, folders, globs and data sets on the hub, each record with the place it stands in.

A file is JSON (a list of records), JSONL (one record a line), parquet, CSV, or text (one record `{"text": the whole
file}`), plain or gzipped. A mistake in a file is one line that begins with `file:line: `; in parquet and on the hub,
where there are no lines, the number of the row stands there.
"""

import csv
import glob
import gzip
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet

from chatml.messages import kind
from recipes import RecipeError
from recipes.sections import Source

Records = Iterator[tuple[str, dict[str, Any]]]


def read(source: Source) -> Records:
    """(where, record) of every record of a source, in order; only the first `source.take` of them if it says so.

    Raises RecipeError where the source is not there or a file cannot be read, as late as that is found out.
    """
    records = _hub(source) if source.on_hub else chain.from_iterable(map(_read_file, _files(source.path)))
    return islice(records, source.take)


def _files(path: str) -> list[str]:
    if os.path.isdir(path):
        inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        files = sorted(file for file in inside if _kind(file) in _READERS)
        if not files:
            raise RecipeError(f"{path}: the folder holds no data; {_KNOWN}")
        return files
    if os.path.exists(path):
        return [path]
    files = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if not files:
        raise RecipeError(
            f"{path} does not exist; name a file, a folder, a glob, or a data set on the hub (owner/name)"
        )
    return files


def _kind(path: str) -> str:
    """The suffix that says what is in a file, .gz aside."""
    return os.path.splitext(path.lower().removesuffix(".gz"))[1]


def _read_file(path: str) -> Records:
    reader = _READERS.get(_kind(path))
    if reader is None:
        raise RecipeError(f"{path}: not a kind of file that can be read; {_KNOWN}")
    try:
        with gzip.open(path) if path.lower().endswith(".gz") else open(path, "rb") as file:
            yield from reader(path, file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RecipeError(f"{path}: damaged or cut off in the middle ({error}); make or download it again") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error})") from None


def _jsonl(path: str, lines: Iterable[bytes]) -> Records:
    for number, line in enumerate(lines, start=1):
        where, text = f"{path}:{number}", _decoded(line, path, number)
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise RecipeError(
                f"{where}: not JSON ({error.msg}, column {error.colno}); a record stands in one line, "
                "or all of them in one list"
            ) from None
        yield where, _object(record, where)


def _json(path: str, file: BinaryIO) -> Records:
    """A list of records; or, as such files are often named, one record a line, or one record alone."""
    text = _decoded(file.read(), path, 1)
    if text.lstrip().startswith("["):
        yield from _json_list(path, text)
        return
    try:
        record = json.loads(text)
    except json.JSONDecodeError:
        yield from _jsonl(path, text.encode().splitlines())
        return
    yield f"{path}:1", _object(record, f"{path}:1")


def _json_list(path: str, text: str) -> Records:
    """The records of a list one by one, so that the line of each is known."""
    decoder, space = json.JSONDecoder(), re.compile(r"\s*")

    def after_space(at: int) -> int:
        return space.match(text, at).end()

    at, line, counted = after_space(text.index("[") + 1), 1, 0
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        try:
            record, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise RecipeError(f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno})") from None
        yield f"{path}:{line}", _object(record, f"{path}:{line}")
        at = after_space(at)
        if text[at : at + 1] == ",":
            at = after_space(at + 1)
        elif text[at : at + 1] != "]":
            line += text.count("\n", counted, at)
            raise RecipeError(f"{path}:{line}: not JSON (no comma and no end of the list after a record)")


def _csv(path: str, file: BinaryIO) -> Records:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is shorter than many a document
    reader = csv.DictReader((_decoded(line, path, number) for number, line in enumerate(file, start=1)), strict=True)
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                raise RecipeError(f"{where}: not as many columns as the {len(reader.fieldnames)} of the first line")
            yield where, row
    except csv.Error as error:
        raise RecipeError(f"{path}:{reader.reader.line_num}: not CSV ({error})") from None


def _text(path: str, file: BinaryIO) -> Records:
    yield f"{path}:1", {"text": _decoded(file.read(), path, 1)}


def _parquet(path: str, file: BinaryIO) -> Records:
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", record
    except pyarrow.ArrowException as error:
        raise RecipeError(f"{path}: not a parquet file ({_first_line(error)})") from None


_READERS: dict[str, Callable[[str, BinaryIO], Records]] = {
    ".json": _json,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    ".csv": _csv,
    ".txt": _text,
}
_KNOWN = f"use {', '.join(_READERS)} (and .gz of these)"


def _hub(source: Source) -> Records:
    from datasets import load_dataset  # half a second, which local files need not wait for

    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # datasets raises a great many kinds, all of them about what was asked for
        raise RecipeError(
            f"{source.path}: neither a file here nor a data set that could be loaded from the hub "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from None
    for number, record in enumerate(rows, start=1):
        yield f"{source.path}:{source.split}:{number}", record


def _decoded(data: bytes, path: str, line: int) -> str:
    """UTF-8, a byte order mark at the start aside; `line` is the number of the first line in `data`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise RecipeError(
            f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from None
    return text.removeprefix("\ufeff") if line == 1 else text


def _object(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise RecipeError(f"{where}: {kind(record)}; a record is an object with named fields")
    return record


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
