"""Files of records, by their kind: JSON, parquet, CSV and text; all but parquet plain, gzipped, or in Zstandard's form.

A bad record is yielded as a RecordError in its place; a damaged file raises RecipeError. Both messages begin with
`file:line: ` (in parquet, which has no lines, the row number).
"""

import codecs
import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO

import pyarrow
import pyarrow.parquet

from chatml import RecordError
from config import RecipeError
from engine.data.json_files import Records, decoded, json_records
from engine.data.table_nulls import table_cleaner

PACKED = (".gz", ".zst")


def kind_of(path: str) -> str:
    """Return a file's suffix, ignoring .gz and .zst."""
    name = path.lower()
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return os.path.splitext(name)[1]


def read_file(path: str, advance: Callable[[int], object]) -> Records:
    """Yield (place, record) of a file's records; call `advance` with the bytes read since. Raises RecipeError."""
    reader = READERS.get(kind_of(path))
    if reader is None:
        raise RecipeError(f"{path}: not a kind of file that can be read; {KNOWN}")
    if kind_of(path) == ".parquet" and path.lower().endswith(PACKED):
        raise RecipeError(f"{path}: parquet is compressed in itself; unpack the file")
    seen = 0
    try:
        with reading(path) as raw, _unpacked(path, raw) as file:
            for record in reader(path, file):
                advance(raw.tell() - seen)
                seen = raw.tell()
                yield record
    except (EOFError, zlib.error, OSError) as error:
        raise RecipeError(f"{path}: damaged or cut off in the middle ({error}); make or download it again") from None


@contextmanager
def reading(path: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes. Raises RecipeError where the system refuses."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        if error.errno is None:  # what unpacks a file says what is wrong with it
            raise
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); look at its permissions and its disk") from None


@contextmanager
def _unpacked(path: str, raw: BinaryIO) -> Iterator[BinaryIO]:
    if path.lower().endswith(".gz"):
        yield gzip.GzipFile(fileobj=raw)
    elif path.lower().endswith(".zst"):
        yield io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"))
    else:
        yield raw


def _csv(path: str, file: BinaryIO) -> Records:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is shorter than many a document
    rows = csv.reader(_lines(path, file), strict=True)
    try:
        names = next(rows, [])
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise RecipeError(f"{path}:1: two columns are named {twice!r}; rename one of them")
        for row in rows:
            if not row:
                continue
            where = f"{path}:{rows.line_num}"
            if len(row) == len(names):
                yield where, dict(zip(names, row, strict=True))
            else:
                counts = f"cells: {len(row)} here, {len(names)} in the first line"
                yield where, RecordError(f"{counts}; put quotes around cells that hold commas")
    except csv.Error as error:
        raise RecipeError(f"{path}:{rows.line_num}: not CSV ({error}); correct the quotes there") from None


def _lines(path: str, file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            yield decoded(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
        except RecordError as error:
            raise RecipeError(f"{path}:{number}: {error}") from None


def _text(path: str, file: BinaryIO) -> Records:
    yield f"{path}:1", {"text": "".join(_lines(path, file))}


def _parquet(path: str, file: BinaryIO) -> Records:
    number = 0
    try:
        table = pyarrow.parquet.ParquetFile(file)
        clean = table_cleaner(table.schema_arrow, json_is_text=True)
        for batch in table.iter_batches(batch_size=256):
            for record in batch.to_pylist():
                number += 1
                yield f"{path}:{number}", clean(record)
    except (pyarrow.ArrowException, OSError, json.JSONDecodeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise RecipeError(f"{path}: not a whole parquet file ({reason}); make or download it again") from None


READERS: dict[str, Callable[[str, BinaryIO], Records]] = {
    ".json": json_records,
    ".jsonl": partial(json_records, lines=True),
    ".parquet": _parquet,
    ".csv": _csv,
    ".txt": _text,
}
KNOWN = f"use {', '.join(READERS)} (and .gz or .zst of these), or a folder that save_to_disk wrote"
