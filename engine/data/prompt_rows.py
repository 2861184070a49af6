"""Prompts as rows: on disk their messages and records are JSON in string columns; here alone they are read and written.

Records of one source may have any fields, so a column of structs would fill each record with the fields of the others.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:  # half a second that the processes which make rows need not wait for
    from datasets import Dataset


@dataclass(frozen=True)
class PromptRow:
    """One prompt that a model is to answer."""

    input_ids: list[int]
    """the prompt's tokens, up to where the answer begins"""
    messages: list[dict[str, Any]]
    """the conversation so far, as it is left after cutting to length"""
    record: dict[str, Any]
    """the record that the prompt was read from"""

    def as_columns(self) -> dict[str, Any]:
        """The row as it is stored on disk. Values that JSON does not know (dates, say) become text."""
        return {
            "input_ids": self.input_ids,
            "messages": json.dumps(self.messages),
            "record": json.dumps(self.record, default=str),
        }

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> "PromptRow":
        return cls(columns["input_ids"], json.loads(columns["messages"]), json.loads(columns["record"]))


class PromptRows(Sequence[PromptRow]):
    """The rows of a data set on disk, decoded when they are asked for."""

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
