"""Records as they were read: the content of each, its place, and the problem of those that cannot be read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from chatml import (
    FIELDS,
    Conversation,
    Message,
    Pair,
    RecordError,
    is_text,
    read_conversation,
    read_pair,
    read_prompt,
    read_text,
    usual_names,
)
from show.recipe import is_comparisons, is_texts

COMPARISONS = "comparisons.train"
"""key that selects reading records as comparisons"""
PROMPT_KEYS = ("prompts", "heldout")
"""data keys with prompts"""
Content = Conversation | Pair | str
"""a conversation or a prompt, a comparison, or plain text"""


@dataclass(frozen=True, slots=True)
class Record:
    where: str
    fields: dict[str, Any]
    """the record as it is in the file"""
    content: Content | None
    problem: str = ""
    """why the record cannot be read, if `content` is None"""

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages; of a comparison its prompt, then both sides. Empty for plain text."""
        if isinstance(self.content, Pair):
            return (*self.content.prompt, *self.content.chosen, *self.content.rejected)
        return self.content.messages if isinstance(self.content, Conversation) else ()

    @property
    def texts(self) -> list[str]:
        """All texts of the record except system prompts, which many records share."""
        if isinstance(self.content, str):
            return [self.content]
        return [text for message in self.messages if message.role != "system" for text in _message_texts(message)]

    @property
    def has_null(self) -> bool:
        """Whether a call's arguments or a tool's signature contain null; exports of tables add nulls everywhere."""
        tools = self.content.tools if isinstance(self.content, Conversation) else None
        calls = [call.arguments for message in self.messages for call in message.tool_calls or ()]
        return _holds_null([tools or [], calls])

    @property
    def question(self) -> tuple[tuple[str, ...], ...]:
        """The messages before the last response, without system prompts, as tuples of role and texts."""
        messages = self.content.prompt if isinstance(self.content, Pair) else self.messages
        while messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        return tuple((message.role, *_message_texts(message)) for message in messages if message.role != "system")

    @property
    def answers(self) -> list[str]:
        """The content of all assistant messages without tool calls."""
        return [m.content for m in self.messages if m.role == "assistant" and not m.tool_calls]


def read_records(
    records: Sequence[tuple[str, dict[str, Any] | RecordError]],
    key: str,
    fields: Mapping[str, str | None],
    roles: Mapping[str, str] | None = None,
    *,
    parse_text: bool = False,
) -> list[Record]:
    """Read the records of a data key (`train`, `prompts`, ...), each given as (place, record).

    The key decides how they are read. Under `train` and `eval` they are comparisons if all of them have chosen and
    rejected, else conversations.
    """
    if key in ("train", "eval") and all(_is_pair(record, fields) for _, record in records):
        key = COMPARISONS
    parse = partial(_parse_record, key=key, fields=fields, how={"roles": roles, "parse_text": parse_text})
    return [_read(where, record, parse) for where, record in records]


def unread_fields(records: Sequence[Record], fields: Mapping[str, str | None]) -> list[str]:
    """Return the names of fields that are not read, in order of first occurrence."""
    unread = (
        name
        for record in records
        for renames in [{**usual_names(record.fields), **fields}]
        for name in record.fields
        if renames.get(name, name) not in (None, *FIELDS)
    )
    return list(dict.fromkeys(unread))


def _read(where: str, record: dict[str, Any] | RecordError, parse: Callable[[dict[str, Any]], Content]) -> Record:
    if isinstance(record, RecordError):
        return Record(where, {}, None, str(record))
    try:
        return Record(where, record, parse(record))
    except RecordError as error:
        return Record(where, record, None, str(error))


def _parse_record(
    record: dict[str, Any], key: str, fields: Mapping[str, str | None], how: Mapping[str, Any]
) -> Content:
    if is_comparisons(key):
        return read_pair(record, fields, **how)
    if key in PROMPT_KEYS:
        return read_prompt(record, fields, **how)
    if is_texts(key) or is_text(record, fields):
        return read_text(record, fields)
    return read_conversation(record, fields, **how)


def _is_pair(record: dict[str, Any] | RecordError, fields: Mapping[str, str | None]) -> bool:
    if isinstance(record, RecordError):
        return False
    names = {fields.get(name, name) for name, value in record.items() if value is not None}
    return names >= {"chosen", "rejected"}


def _holds_null(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return value is None or any(map(_holds_null, inside))


def _message_texts(message: Message) -> Iterator[str]:
    yield message.content
    if message.reasoning:
        yield message.reasoning
    for call in message.tool_calls or ():
        yield f"{call.name} {call.arguments}"
