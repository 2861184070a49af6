"""Chunks of records, and the batches of rows that are made of them: what one process hands to another."""

from collections.abc import Iterator
from typing import Any

import pyarrow

from chatml import RecordError
from engine.data.encoding import Chunk, Maker, Settings, conversations, pairs, prompts, texts
from engine.data.report import Report

MOST = 1000  # records that go through the tokenizer together,
CHARACTERS = 1_000_000  # fewer of them where they are long

_TOKENS = pyarrow.list_(pyarrow.int32())
COLUMNS: dict[Maker, pyarrow.Schema] = {
    conversations: pyarrow.schema({"input_ids": _TOKENS, "labels": _TOKENS}),
    texts: pyarrow.schema({"input_ids": _TOKENS, "labels": _TOKENS}),
    pairs: pyarrow.schema({"chosen_ids": _TOKENS, "rejected_ids": _TOKENS, "margin": pyarrow.float64()}),
    prompts: pyarrow.schema({"input_ids": _TOKENS, "messages": pyarrow.string(), "record": pyarrow.string()}),
}


def chunks_of(records: Iterator[tuple[str, dict[str, Any] | RecordError]]) -> Iterator[Chunk]:
    """The records in order, some at a time."""
    chunk, characters = [], 0
    for item in records:
        chunk.append(item)
        characters += _characters(item[1])
        if len(chunk) == MOST or characters > CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def batch_of(chunk: Chunk, make: Maker, settings: Settings, tokenizer: Any) -> tuple[pyarrow.RecordBatch, Report]:
    """The rows that `make` makes of a chunk, and what became of its records."""
    report, columns = Report(), COLUMNS[make]
    rows = list(make(chunk, settings, tokenizer, report))
    arrays = [pyarrow.array([row[column.name] for row in rows], column.type) for column in columns]
    return pyarrow.record_batch(arrays, columns), report


def _characters(value: Any) -> int:
    """About how much text there is in a record."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0
