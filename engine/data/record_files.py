"""Read files of records: JSON, parquet, CSV and text; all but parquet optionally compressed with gzip or Zstandard.

A bad record is yielded as a RecordError; a damaged file raises RecipeError. Places are `file:line`, in parquet
`file:row`.
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
from typing import BinaryIO, cast

import pyarrow
import pyarrow.parquet

from chatml import RecordError
from config import RecipeError
from engine.data.json_files import Records, decode_utf8, json_records
from engine.data.table_nulls import table_cleaner

COMPRESSED = (".gz", ".zst")


def file_kind(path: str) -> str:
    """Return the suffix of a file name in lower case, without .gz and .zst: "A.JSONL.gz" → ".jsonl"."""
    name = path.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return os.path.splitext(name)[1]


def read_file(path: str, advance: Callable[[int], object]) -> Records:
    """Yield (place, record) of a file's records, and call `advance` with the number of bytes read since the last call.

    Raises RecipeError if the file's type is not supported or the file is damaged.
    """
    reader = READERS.get(file_kind(path))
    if reader is None:
        raise RecipeError(f"{path}: not a supported file type; {READABLE_FILES}")
    if file_kind(path) == ".parquet" and path.lower().endswith(COMPRESSED):
        raise RecipeError(f"{path}: parquet files are compressed internally; decompress the file")
    seen = 0
    try:
        with open_file(path) as raw, _unpacked(path, raw) as file:
            for record in reader(path, file):
                advance(raw.tell() - seen)
                seen = raw.tell()
                yield record
    except (EOFError, zlib.error, OSError) as error:
        raise RecipeError(f"{path}: damaged or truncated ({error}); regenerate or download it again") from None


@contextmanager
def open_file(path: str) -> Iterator[BinaryIO]:
    """Open a file for reading bytes. Raises RecipeError if the system does not allow it."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        if error.errno is None:  # from decompression; read_file reports it
            raise
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); check its permissions and its disk") from None


@contextmanager
def _unpacked(path: str, raw: BinaryIO) -> Iterator[BinaryIO]:
    if path.lower().endswith(".gz"):
        yield cast(BinaryIO, gzip.GzipFile(fileobj=raw))
    elif path.lower().endswith(".zst"):
        yield io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"))
    else:
        yield raw


def _csv(path: str, file: BinaryIO) -> Records:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is too short for many documents
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
                yield where, RecordError(f"{counts}; put quotes around cells that contain commas")
    except csv.Error as error:
        raise RecipeError(f"{path}:{rows.line_num}: not CSV ({error}); correct the quotes there") from None


def _lines(path: str, file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            yield decode_utf8(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line)
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
        raise RecipeError(f"{path}: not a complete parquet file ({reason}); regenerate or download it again") from None


READERS: dict[str, Callable[[str, BinaryIO], Records]] = {
    ".json": json_records,
    ".jsonl": partial(json_records, lines=True),
    ".parquet": _parquet,
    ".csv": _csv,
    ".txt": _text,
}
READABLE_FILES = f"use {', '.join(READERS)} (and .gz or .zst of these), or a folder that save_to_disk wrote"
