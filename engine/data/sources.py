"""Read records from files, folders, globs and data sets of `datasets`, each with its place.

Records are read one at a time, so a source may be larger than memory. This file also selects the part of a source that
is used (`skip`, `take`, a share by hash). The hash is that of the record's content, so a record, and any copy of it, is
always in the same share.
"""

import glob
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import xxhash

from chatml import RecordError, rename_fields
from config import RecipeError
from config.data import Source
from engine.data.documents import split_documents
from engine.data.folders import select_files
from engine.data.hub_sets import is_saved_set, load_from_hub, load_saved
from engine.data.json_files import Records
from engine.data.record_files import open_file, read_file

Advance = Callable[[int], object]
NO_FIELDS: Mapping[str, str | None] = {}


class Place(Protocol):
    """A resolved source: files, or a loaded data set."""

    @property
    def read(self) -> tuple[str, ...]:
        """The files that are read, or the name of the data set."""

    @property
    def left_out(self) -> tuple[str, ...]:
        """Other files in the same folder, which are not read."""

    @property
    def size(self) -> int:
        """The amount to read: bytes of files, or rows of a data set."""

    def fingerprint(self) -> str:
        """Return a hash of the content."""

    def records(self, advance: Advance) -> Records:
        """Yield (place, record) of all records; call `advance` with how much of `size` was read since the last call."""


def read_source(
    source: Source, document_end: str | None = None, fields: Mapping[str, str | None] = NO_FIELDS
) -> Records:
    """Yield (place, record) of a source's records in order, with a RecordError in place of a bad record.

    Plain text is split at `document_end`; `fields` (names in the records → names read) determines which records are
    plain text. Raises RecipeError if the source is missing, or, when it is reached, for a damaged file.
    """
    return select_records(find_place(source), source, document_end=document_end, fields=fields)


def find_place(source: Source) -> Place:
    """Resolve a source. Raises RecipeError if it does not exist."""
    if source.on_hub:
        return load_from_hub(source)
    if os.path.isdir(source.path):
        return load_saved(source) if is_saved_set(source.path) else Files(*select_files(source.path, source.split))
    return Files(tuple(_files(source.path)))


def select_records(
    place: Place,
    source: Source,
    advance: Advance = lambda more: None,
    *,
    document_end: str | None = None,
    fields: Mapping[str, str | None] = NO_FIELDS,
) -> Records:
    """Yield the records of a place that its source selects, with the source's own renames.

    Text is split into documents first, each a record.
    """
    records = place.records(advance)
    if document_end is not None:
        records = split_documents(records, document_end, {**fields, **source.fields})
    stop = None if source.take is None else source.skip + source.take
    records = islice(records, source.skip, stop)
    share = source.only_share or source.without_share
    if share is not None:
        records = (item for item in records if _held_out(item[1], share) == (source.only_share is not None))
    if not source.fields:
        return records
    return ((where, _renamed(record, source.fields)) for where, record in records)


def _renamed(record: Any, fields: Mapping[str, str | None]) -> Any:
    return rename_fields(record, fields) if isinstance(record, Mapping) else record


def _held_out(record: dict[str, Any] | RecordError, share: float) -> bool:
    if isinstance(record, RecordError):
        return False  # so that the source with `without_share` reports it
    written = json.dumps(record, sort_keys=True, ensure_ascii=True, default=str)
    return xxhash.xxh3_64_intdigest(written.encode()) < share * 2**64


@dataclass(frozen=True)
class Files:
    """Files that are read one after another."""

    read: tuple[str, ...]
    left_out: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return sum(map(os.path.getsize, self.read))

    def fingerprint(self) -> str:
        seen = xxhash.xxh3_128()
        for path in self.read:
            seen.update(f"\0{path}\0{os.path.getsize(path)}\0".encode())
            with open_file(path) as file:
                while block := file.read(1 << 20):
                    seen.update(block)
        return seen.hexdigest()

    def records(self, advance: Advance) -> Records:
        for path in self.read:
            yield from read_file(path, advance)


def _files(path: str) -> list[str]:
    if os.path.exists(path):
        return [path]
    files = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if not files:
        raise RecipeError(
            f"{path} does not exist; name a file, a folder, a glob, or a data set on the hub (owner/name)"
        )
    return files
