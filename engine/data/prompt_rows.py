"""Rows of prompts. On disk their messages and records are JSON strings, which only this file encodes and decodes.

Records of one source may have different fields; a column of structs would add the fields of all others to each record.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:  # importing it takes half a second, which would delay worker processes
    from datasets import Dataset


@dataclass(frozen=True)
class PromptRow:
    """One prompt to generate responses to."""

    input_ids: list[int]
    """tokens of the prompt, up to the first token of the response"""
    messages: list[dict[str, Any]]
    """the conversation so far, after cutting to length"""
    record: dict[str, Any]
    """the record that the prompt was read from"""

    def as_columns(self) -> dict[str, Any]:
        """Return the row as stored on disk. Values that JSON does not support, such as dates, become strings."""
        return {
            "input_ids": self.input_ids,
            "messages": json.dumps(self.messages),
            "record": json.dumps(self.record, default=str),
        }

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> "PromptRow":
        return cls(columns["input_ids"], json.loads(columns["messages"]), json.loads(columns["record"]))


class PromptRows(Sequence[PromptRow]):
    """A sequence of the prompts of a data set on disk, each decoded on access."""

    def __init__(self, stored: "Dataset"):
        self.stored = stored

    def __len__(self) -> int:
        return len(self.stored)

    @overload
    def __getitem__(self, at: int) -> PromptRow: ...
    @overload
    def __getitem__(self, at: slice) -> list[PromptRow]: ...
    def __getitem__(self, at: int | slice) -> PromptRow | list[PromptRow]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return PromptRow.from_columns(self.stored[at])

    def __iter__(self) -> Iterator[PromptRow]:
        return map(PromptRow.from_columns, self.stored)
