"""Finished work, item by item, so that an evaluation that was killed or extended does only what is missing.

    RUN/items/<name>-<fingerprint>.jsonl      {"of": what the row was computed from, ...}, a line an item

The fingerprint covers all that decides every row of a file (the model and when it was made, sampling, seed); `of` is a
hash of the item itself (the prompt, the answer that is scored). Files are append-only: of rows with the same `of` the
first counts. They may be deleted at any time.
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
    """16 hexadecimal digits that differ where any of the values does."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, default=str).encode()).hexdigest()[:16]


class ItemStore:
    """The rows of one measure of one subject or reward; `decisive` is all that decides them, besides the items."""

    def __init__(self, run_dir: Path, name: str, *decisive: Any) -> None:
        self.name = name
        self.path = run_dir / FOLDER / f"{name.replace(' ', '_')}-{fingerprint(*decisive)}.jsonl"
        self._rows: dict[str, Row] = {}
        self._add(jsonl.read_and_repair(self.path))

    def missing(self, items: Sequence[str]) -> list[int]:
        """The places of the items that have no row yet."""
        return [place for place, item in enumerate(items) if item not in self._rows]

    def rows(self, items: Sequence[str]) -> list[Row]:
        """The rows of these items, in order. All must be there."""
        return [self._rows[item] for item in items]

    def append(self, rows: Sequence[Row]) -> None:
        """Keep rows, each with its `of`, on disk at once."""
        jsonl.append(self.path, rows)
        self._add(rows)

    def complete(self, items: Sequence[str], compute: Callable[[slice], Sequence[Row]], at_once: int) -> list[Row]:
        """The rows of all items in order; `compute` is called for those that are missing, `at_once` items at a time.

        It is given a slice of the items and returns their rows without `of`. The slices depend on the items alone, not
        on what is missing, so that a resumed evaluation rounds as one that was never interrupted: rows of a slice that
        are known already are computed again, and dropped.
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
    """A live line with the time left; call what it yields with the number of items that were just finished."""
    steps, began, done = Steps(name, total), time.perf_counter(), 0

    def advance(items: int) -> None:
        nonlocal done
        done += items
        seconds = time.perf_counter() - began
        # What is done at once is not worth a line in a log.
        steps.show(done, {"per_second": done / seconds} if seconds > 1 else None)

    steps.start()
    try:
        yield advance
    finally:
        steps.stop()
