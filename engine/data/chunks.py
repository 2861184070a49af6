"""Chunks of records and the batches of rows made from them: what worker processes receive and return."""

from collections.abc import Iterator
from typing import Any

import pyarrow

from chatml import RecordError
from engine.data.encoding import Chunk, Maker, Settings, conversations, documents, pairs, prompts, questions, texts
from engine.data.report import Report

# Records that go through the tokenizer together, and the characters beyond which a chunk ends earlier.
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


def chunks_of(records: Iterator[tuple[str, dict[str, Any] | RecordError]]) -> Iterator[Chunk]:
    """Yield the records in order, a chunk at a time."""
    chunk, characters = [], 0
    for item in records:
        chunk.append(item)
        characters += _characters(item[1])
        if len(chunk) == CHUNK_RECORDS or characters > CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def batch_of(chunk: Chunk, make: Maker, settings: Settings, tokenizer: Any) -> tuple[pyarrow.RecordBatch, Report]:
    """Return the rows that `make` makes of a chunk, and the report on its records."""
    report, columns = Report(), COLUMNS[make]
    rows = list(make(chunk, settings, tokenizer, report))
    arrays = [pyarrow.array([row[column.name] for row in rows], column.type) for column in columns]
    return pyarrow.record_batch(arrays, columns), report


def _characters(value: Any) -> int:
    """Return roughly how many characters of text a record holds."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0
