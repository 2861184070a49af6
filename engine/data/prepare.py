"""Prepare the rows of a source once: they are cached on disk as Arrow files, by a hash of their inputs.

    $HF_DATASETS_CACHE/plumbline/<key>/  rows.arrow  report.json

The key is a hash of everything that determines the rows: the source's content, the settings, the tokenizer, the code
and the library versions. Rows are written as they are made and memory-mapped when read, so memory use does not depend
on the size of the source. A folder gets its name only when it is complete. One process makes it while holding a file
lock; all others, of this run or another, wait. You may delete the cache at any time.
"""

import functools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import tokenizers
import xxhash
from datasets import Dataset
from filelock import FileLock, Timeout

from config import RecipeError
from config.data import Source
from engine.data.chunks import COLUMNS, encode_chunk, split_into_chunks
from engine.data.progress import ReadProgress
from engine.data.reading import Maker, Settings
from engine.data.report import Report
from engine.data.sources import Place, find_place, select_records
from engine.data.workers import map_in_order
from engine.files import durable

ROWS, REPORT = "rows.arrow", "report.json"
ROOT = Path(__file__).parents[2]
CODE = ("chatml/*.py", "engine/data/*.py", "config/data.py")

# Estimated remaining time above which worker processes are started.
WORKERS_WORTH_SECONDS = 20.0


def prepare_rows(make: Maker, source: Source, settings: Settings, tokenizer: Any, key: str) -> tuple[Dataset, Report]:
    """Return the rows that `make` makes from a source, and the report on its records. `key` labels the progress bar.

    Raises RecipeError if the source is missing, empty or unreadable, or if the cache cannot be written.
    """
    place = find_place(source)
    folder = cache_folder() / _key(make, source, place, settings, tokenizer)
    if not folder.exists():
        with exclusive_lock(folder):
            if not folder.exists():
                shared = (make, settings, tokenizer)
                durable.write_folder(folder, lambda partial: _write(partial, source, place, shared, key))
    report = Report.from_json(json.loads((folder / REPORT).read_text(encoding="utf-8")))
    report.read_from, report.left_out = list(place.read), list(place.left_out)
    if report.read == 0:
        raise RecipeError(f"{source.path}: {_why_empty(source)}")
    return Dataset.from_file(str(folder / ROWS)), report


def cache_folder() -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "plumbline"


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the file lock of `path`, so that one process makes it while the others wait.

    Raises RecipeError for any OSError in the block: the cache cannot be written.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print("waiting for another process that is preparing the same data", file=sys.stderr, flush=True)
            lock.acquire()
        yield
    except OSError as error:
        raise RecipeError(
            f"{path.parent}: prepared data cannot be stored there ({error.strerror or error}); "
            "make room, or set HF_DATASETS_CACHE to another folder"
        ) from None
    finally:
        lock.release()


def _key(make: Maker, source: Source, place: Place, settings: Settings, tokenizer: Any) -> str:
    part = {name: getattr(source, name) for name in ("skip", "take", "without_share", "only_share", "fields")}
    vocabulary = (tokenizer.backend_tokenizer.to_str(), tokenizer.bos_token_id, tokenizer.eos_token)
    decisive = (make.__name__, part, settings, vocabulary, place.fingerprint(), _code())
    return xxhash.xxh3_128_hexdigest("\0".join(map(repr, decisive)).encode())


@functools.cache
def _code() -> str:
    """Return a hash of the code that makes rows and of the versions of its libraries."""
    seen = xxhash.xxh3_128(f"{tokenizers.__version__} {pyarrow.__version__} {datasets.__version__}".encode())
    for path in sorted(path for pattern in CODE for path in ROOT.glob(pattern)):
        seen.update(path.name.encode() + path.read_bytes())
    return seen.hexdigest()


def _write(folder: Path, source: Source, place: Place, shared: tuple[Maker, Settings, Any], key: str) -> None:
    report = Report()
    with (
        pyarrow.OSFile(str(folder / ROWS), "wb") as sink,
        pyarrow.ipc.new_stream(sink, COLUMNS[shared[0]]) as stream,
        ReadProgress(key, place.size) as reading,
    ):
        _, settings, _ = shared
        records = select_records(
            place, source, reading.advance, document_end=settings.document_end, fields=settings.fields
        )
        chunks = split_into_chunks(records)
        for batch, counted in map_in_order(
            encode_chunk, shared, chunks, lambda: reading.seconds_left > WORKERS_WORTH_SECONDS
        ):
            stream.write_batch(batch)
            report.add(counted)
            reading.show(report.read)
    durable.write_json(folder / REPORT, report.as_json())


def _why_empty(source: Source) -> str:
    if source.only_share or source.without_share:
        share = source.only_share or source.without_share
        return f"no record is in the share of {share}, which a hash of each record decides; raise it, or add records"
    return f"no records after the first {source.skip:,}; lower skip" if source.skip else "no records in it"
