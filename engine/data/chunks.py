"""Chunks of records, which worker processes receive, and the Arrow batches of rows that they return."""

from collections.abc import Iterator
from typing import Any

import pyarrow

from chatml import RecordError
from engine.data.encoding import conversations, pairs, prompts, questions
from engine.data.plain_text import documents, texts
from engine.data.reading import Chunk, Maker, Settings
from engine.data.report import Report

# Maximum number of records per chunk (they are tokenized together), and of characters after which a chunk ends.
CHUNK_RECORDS, CHUNK_CHARACTERS = 1000, 1_000_000

_TOKENS = pyarrow.list_(pyarrow.int32())
COLUMNS: dict[Maker, pyarrow.Schema] = {
    conversations: pyarrow.schema({"input_ids": _TOKENS, "labels": _TOKENS}),
    texts: pyarrow.schema({"input_ids": _TOKENS, "labels": _TOKENS}),
    documents: pyarrow.schema({"text": pyarrow.string()}),
    pairs: pyarrow.schema(
        {"chosen_ids": _TOKENS, "rejected_ids": _TOKENS, "margin": pyarrow.float64(), "subset": pyarrow.string()}
    ),
    prompts: pyarrow.schema({"input_ids": _TOKENS, "messages": pyarrow.string(), "record": pyarrow.string()}),
    questions: pyarrow.schema({"messages": pyarrow.string(), "record": pyarrow.string()}),
}


def split_into_chunks(records: Iterator[tuple[str, dict[str, Any] | RecordError]]) -> Iterator[Chunk]:
    """Group records into chunks, in order."""
    chunk, characters = [], 0
    for item in records:
        chunk.append(item)
        characters += _characters(item[1])
        if len(chunk) == CHUNK_RECORDS or characters > CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def encode_chunk(chunk: Chunk, make: Maker, settings: Settings, tokenizer: Any) -> tuple[pyarrow.RecordBatch, Report]:
    """Apply `make` to a chunk. Return its rows (columns as in COLUMNS[make]) and the report on its records."""
    report, columns = Report(), COLUMNS[make]
    rows = list(make(chunk, settings, tokenizer, report))
    arrays = [pyarrow.array([row[column.name] for row in rows], column.type) for column in columns]
    return pyarrow.record_batch(arrays, columns), report


def _characters(value: Any) -> int:
    """Return the number of characters in all strings of a record."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0
