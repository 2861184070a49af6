"""A cache of finished items on disk, so that an evaluation that was killed or extended computes only what is missing.

    RUN/items/<name>-<fingerprint>.jsonl      one line per item: {"of": key of the item, ...}

The fingerprint in the file name covers everything that determines all its rows (model files, sampling, seed). `of` is a
hash of the item itself (the prompt, the answer to score). Files are append-only: of rows with the same `of`, the first
one counts. The files may be deleted at any time.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.files import jsonl
from engine.run.console import Steps

FOLDER = "items"
Row = dict[str, Any]


def fingerprint(*decisive: Any) -> str:
    """Return a hash of JSON-serialisable values (others by their `str`), 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


class ItemStore:
    """The rows of one measure of one subject or reward.

    `decisive` is everything that determines the rows besides the items: another value starts another file.
    """

    def __init__(self, run_dir: Path, name: str, *decisive: Any) -> None:
        self.name = name
        self.path = run_dir / FOLDER / f"{name.replace(' ', '_')}-{fingerprint(*decisive)}.jsonl"
        self._rows: dict[str, Row] = {}
        self._add(jsonl.read_and_repair(self.path))

    def missing(self, items: Sequence[str]) -> list[int]:
        """Return the indices of the items that have no row yet."""
        return [place for place, item in enumerate(items) if item not in self._rows]

    def rows(self, items: Sequence[str]) -> list[Row]:
        """Return the rows of these items, in order. Raise KeyError if one is missing."""
        return [self._rows[item] for item in items]

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows to disk immediately; each has its `of`."""
        jsonl.append(self.path, rows)
        self._add(rows)

    def complete(self, items: Sequence[str], compute: Callable[[slice], Sequence[Row]], at_once: int) -> list[Row]:
        """Return the rows of all items in order, computing those that are missing, `at_once` items at a time.

        `compute` takes a slice of the items and returns their rows without `of`. Slice boundaries depend on the items
        alone, not on what is missing, so a resumed evaluation forms the same batches, and rounds the same way, as an
        uninterrupted one. Rows of a slice that are already stored are computed again and dropped.
        """
        waiting = self.missing(items)
        if waiting:
            with progress(self.name, len(waiting)) as steps:
                for start in range(0, len(items), at_once):
                    part = slice(start, min(start + at_once, len(items)))
                    new = [place for place in waiting if part.start <= place < part.stop]
                    if new:
                        rows = compute(part)
                        self.append([{"of": items[place], **rows[place - start]} for place in new])
                        steps(len(new))
        return self.rows(items)

    def _add(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._rows.setdefault(row["of"], row)


@contextmanager
def progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress line with the time left. Call the yielded function with the number of items just finished."""
    steps, began, done = Steps(name, total), time.perf_counter(), 0

    def advance(items: int) -> None:
        nonlocal done
        done += items
        seconds = time.perf_counter() - began
        # Work of less than a second is not worth a line in a log.
        steps.show(done, {"per_second": done / seconds} if seconds > 1 else None)

    steps.start()
    try:
        yield advance
    finally:
        steps.stop()
