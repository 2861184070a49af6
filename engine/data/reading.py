"""What a maker of rows gets, and how it reads records.

A maker takes a chunk of records, the settings, a tokenizer with the ChatML tokens, and the report to count in. It
depends on nothing else, so its rows are a function of the cache key (engine/data/prepare.py) in any process. A record
that cannot be read is passed to the report, which counts it or raises RecipeError, depending on `data.on_bad_record`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from chatml import RecordError
from config.data import OnBadRecord, TooLong
from engine.data.chatml_section import ChatML
from engine.data.report import Report

Row = dict[str, Any]
Chunk = Sequence[tuple[str, dict[str, Any] | RecordError]]
"""(place, record) pairs: `file:line`, and the record's fields or the RecordError that explains why it cannot be read"""
Value = TypeVar("Value")


@dataclass(frozen=True)
class Settings:
    """All settings of a recipe that determine how records become rows."""

    chatml: ChatML
    fields: Mapping[str, str | None]
    too_long: TooLong
    on_bad_record: OnBadRecord
    limit_key: str
    """the recipe key of the limit, for messages"""
    limit: int
    """maximum length of a row, in tokens"""
    document_end: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    """role names in the records → system, user, assistant, tool"""

    def read(self, reader: Callable[..., Value], record: Mapping[str, Any]) -> Value:
        """Apply one of chatml's readers to a record, with these settings."""
        return reader(record, self.fields, self.roles, parse_text=self.chatml.parse_text)


Maker = Callable[[Chunk, Settings, Any, Report], Iterator[Row]]


def read_records(
    chunk: Chunk, read: Callable[[dict[str, Any]], Value], settings: Settings, report: Report
) -> Iterator[tuple[str, Value, dict[str, Any]]]:
    """Yield (place, value, record) of every record that `read` accepts; report the others as bad."""
    report.read += len(chunk)
    for where, record in chunk:
        try:
            if isinstance(record, RecordError):
                raise record
            value = read(record)
        except RecordError as error:
            report.refuse(where, error, settings.on_bad_record)
        else:
            yield where, value, record
