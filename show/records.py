"""Records as they were read: what each holds, where it stands, and what is wrong with those that hold nothing."""

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
)
from show.recipe import is_comparisons, is_texts

COMPARISONS = "comparisons.train"
"""what training data that holds comparisons is read as"""
ASKED = ("prompts", "heldout")
"""data keys of what is to be answered"""
Held = Conversation | Pair | str
"""a conversation or a prompt, a comparison, or plain text"""


@dataclass(frozen=True, slots=True)
class Record:
    where: str
    fields: dict[str, Any]
    """the record as it stands in the file"""
    held: Held | None
    problem: str = ""
    """why it cannot be read, where `held` is None"""

    @property
    def messages(self) -> tuple[Message, ...]:
        """Of a comparison the shared ones, then both sides; none of plain text."""
        if isinstance(self.held, Pair):
            return (*self.held.prompt, *self.held.chosen, *self.held.rejected)
        return self.held.messages if isinstance(self.held, Conversation) else ()

    @property
    def texts(self) -> list[str]:
        """What makes the record different from others: all that is said but system prompts, which many share."""
        if isinstance(self.held, str):
            return [self.held]
        return [text for message in self.messages if message.role != "system" for text in _said(message)]

    @property
    def has_null(self) -> bool:
        """Whether a null stands in a call's arguments or in a signature, as exports of tables have them everywhere."""
        tools = self.held.tools if isinstance(self.held, Conversation) else None
        calls = [call.arguments for message in self.messages for call in message.tool_calls or ()]
        return _holds_null([tools or [], calls])

    @property
    def question(self) -> tuple[tuple[str, ...], ...]:
        """What stands before the last answer, system prompts aside."""
        messages = self.held.prompt if isinstance(self.held, Pair) else self.messages
        while messages and messages[-1].role == "assistant":
            messages = messages[:-1]
        return tuple((message.role, *_said(message)) for message in messages if message.role != "system")

    @property
    def answers(self) -> list[str]:
        """What the assistant says of its own; calls of tools are none."""
        return [m.content for m in self.messages if m.role == "assistant" and not m.tool_calls]


def read_records(
    records: Sequence[tuple[str, dict[str, Any] | RecordError]],
    key: str,
    fields: Mapping[str, str | None],
    roles: Mapping[str, str] | None = None,
    *,
    parse_text: bool = False,
) -> list[Record]:
    """The records of a data key (`train`, `prompts`, ...), each read as what the key is for.

    Under `train` and `eval` a set of comparisons is told from conversations by its records: all of them have chosen and
    rejected.
    """
    if key in ("train", "eval") and all(_is_pair(record, fields) for _, record in records):
        key = COMPARISONS
    held = partial(_held, key=key, fields=fields, how={"roles": roles, "parse_text": parse_text})
    return [_read(where, record, held) for where, record in records]


def unread_fields(records: Sequence[Record], fields: Mapping[str, str | None]) -> list[str]:
    """Fields of the records that have no meaning here, in the order they are met."""
    met = dict.fromkeys(name for record in records for name in record.fields)
    return [name for name in met if fields.get(name, name) not in (None, *FIELDS)]


def _read(where: str, record: dict[str, Any] | RecordError, held: Callable[[dict[str, Any]], Held]) -> Record:
    if isinstance(record, RecordError):
        return Record(where, {}, None, str(record))
    try:
        return Record(where, record, held(record))
    except RecordError as error:
        return Record(where, record, None, str(error))


def _held(record: dict[str, Any], key: str, fields: Mapping[str, str | None], how: Mapping[str, Any]) -> Held:
    if is_comparisons(key):
        return read_pair(record, fields, **how)
    if key in ASKED:
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


def _said(message: Message) -> Iterator[str]:
    yield message.content
    if message.reasoning:
        yield message.reasoning
    for call in message.tool_calls or ():
        yield f"{call.name} {call.arguments}"
