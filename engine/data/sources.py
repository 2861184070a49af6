"""Where records come from: files, folders, globs and data sets on the hub; each record comes with its place.

Records are read one at a time, so a source may be larger than memory. The part of it that is used (`skip`, `take`, a
share by hash) is decided here. The hash is of the record's content, so a record is always on the same side, wherever
it stands, and equal records are on the same side.
"""

import glob
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import xxhash

from chatml import RecordError
from config import RecipeError
from config.data import Source
from engine.data.json_files import Records
from engine.data.record_files import KNOWN, READERS, kind_of, read_file, reading

Advance = Callable[[int], object]


class Place(Protocol):
    """A place that records are read from."""

    @property
    def size(self) -> int:
        """The amount to read: bytes of files, rows of a data set on the hub."""

    def fingerprint(self) -> str:
        """Return a hash of the content."""

    def records(self, advance: Advance) -> Records:
        """Yield all records; call `advance` with how much of `size` was read since."""


def read(source: Source) -> Records:
    """Yield (place, record) of a source's records in order, with a RecordError in place of a bad one.

    Raises RecipeError where the source is missing or a file is damaged, when reading gets there.
    """
    return selected(find(source), source)


def find(source: Source) -> Place:
    """Return the place that a source names. Raises RecipeError where there is none."""
    return _on_hub(source) if source.on_hub else Files(tuple(_files(source.path)))


def selected(place: Place, source: Source, advance: Advance = lambda more: None) -> Records:
    """Yield the records of a place that its source selects."""
    stop = None if source.take is None else source.skip + source.take
    records = islice(place.records(advance), source.skip, stop)
    share = source.only_share or source.without_share
    if share is None:
        return records
    return (item for item in records if _held_out(item[1], share) == (source.only_share is not None))


def _held_out(record: dict[str, Any] | RecordError, share: float) -> bool:
    if isinstance(record, RecordError):
        return False  # reported where the other records are trained on
    written = json.dumps(record, sort_keys=True, ensure_ascii=True, default=str)
    return xxhash.xxh3_64_intdigest(written.encode()) < share * 2**64


@dataclass(frozen=True)
class Files:
    """Files, one after the other."""

    paths: tuple[str, ...]

    @property
    def size(self) -> int:
        return sum(map(os.path.getsize, self.paths))

    def fingerprint(self) -> str:
        seen = xxhash.xxh3_128()
        for path in self.paths:
            seen.update(f"\0{path}\0{os.path.getsize(path)}\0".encode())
            with reading(path) as file:
                while block := file.read(1 << 20):
                    seen.update(block)
        return seen.hexdigest()

    def records(self, advance: Advance) -> Records:
        for path in self.paths:
            yield from read_file(path, advance)


@dataclass(frozen=True)
class HubSet:
    """A split of a data set on the hub, as `datasets` has downloaded it."""

    name: str
    rows: Any

    @property
    def size(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return self.rows._fingerprint

    def records(self, advance: Advance) -> Records:
        for number, record in enumerate(self.rows, start=1):
            advance(1)
            yield f"{self.name}:{number}", record


def _files(path: str) -> list[str]:
    if os.path.isdir(path):
        inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        files = sorted(file for file in inside if kind_of(file) in READERS)
        if not files:
            raise RecipeError(f"{path}: the folder holds no data; {KNOWN}")
        return files
    if os.path.exists(path):
        return [path]
    files = sorted(file for file in glob.glob(path, recursive=True) if os.path.isfile(file))
    if not files:
        raise RecipeError(
            f"{path} does not exist; name a file, a folder, a glob, or a data set on the hub (owner/name)"
        )
    return files


def _on_hub(source: Source) -> HubSet:
    from datasets import load_dataset  # half a second, which processes that only read records need not wait for

    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # datasets raises a great many kinds, all of them about what was asked for
        reason = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
        raise RecipeError(
            f"{source.path}: neither a file here nor a data set that could be loaded from the hub "
            f"({type(error).__name__}: {reason})"
        ) from None
    return HubSet(f"{source.path}:{source.split}", rows)
