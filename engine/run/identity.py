"""Identify the inputs of a run besides its recipe: the models that it started from and the rows that it trains on."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import pyarrow
import pyarrow.compute
import xxhash

from engine.data.prompt_rows import PromptRows
from engine.run import checkpoints

if TYPE_CHECKING:  # importing it takes half a second, which would delay the launcher
    from datasets import Dataset

FINISHED = "finished.json"
# Number of rows hashed at a time.
BATCH_ROWS = 1000


def made_from(recipe: Any) -> dict[str, str]:
    """Return input path → time at which its run finished, for those inputs of a recipe that are models of runs."""
    marks = ((path, Path(path).parent / FINISHED) for _, path in recipe.inputs())
    return {path: json.loads(mark.read_text(encoding="utf-8")).get("at", "") for path, mark in marks if mark.is_file()}


def has_begun(folder: Path) -> bool:
    """Return whether a run folder contains anything of value: a checkpoint, a model, or a line of a log.

    A run that failed before its first step leaves nothing of value.
    """
    made = ((folder / FINISHED).exists(), (folder / "model").exists(), bool(checkpoints.complete_checkpoints(folder)))
    return any(made) or any(
        path.stat().st_size > 0 for place in ("*.jsonl", "*/*.jsonl") for path in folder.glob(place)
    )


def rows_hash(rows: "Dataset | PromptRows") -> str:
    """Return a hash of all rows in order. It does not depend on how the files divide them into batches."""
    stored = rows.stored if isinstance(rows, PromptRows) else rows
    columns = {name: xxhash.xxh3_128(name.encode()) for name in sorted(stored.column_names)}
    for table in stored.with_format("arrow").iter(BATCH_ROWS):
        for name, seen in columns.items():
            for values in _plain(table.column(name).combine_chunks()):
                seen.update(numpy.ascontiguousarray(values).data)
    return xxhash.xxh3_128_hexdigest(b"".join(seen.digest() for seen in columns.values()))


def _plain(array: pyarrow.Array) -> Iterator[numpy.ndarray]:
    """Yield the content of an array of lists, text or numbers as numeric arrays, with nulls marked."""
    if pyarrow.types.is_list(array.type):
        yield array.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
        yield from _plain(array.flatten())
    elif pyarrow.types.is_string(array.type):
        yield pyarrow.compute.binary_length(array).fill_null(-1).to_numpy(zero_copy_only=False)
        _, offsets, content = array.buffers()
        ends = numpy.frombuffer(offsets, numpy.int32)[[array.offset, array.offset + len(array)]]
        if content is not None:
            yield numpy.frombuffer(content, numpy.uint8)[slice(*ends)]
    else:
        yield array.is_null().to_numpy(zero_copy_only=False)
        yield array.fill_null(0).to_numpy(zero_copy_only=False)
