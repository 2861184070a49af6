"""Read conversations, prompts and comparisons from records. The fields of a record decide which format it has.

A conversation is in
    messages        [{role, content}, ...], and tools
    conversations   ShareGPT: [{from, value}, ...], with function_call and observation turns; and system, tools
    prompt          text, messages or an hh-rlhf transcript; and response (text or messages), system;
                    also as prompt and completion, query and response, or question and answer
    instruction     Alpaca: with input, output, system and history ([[question, answer], ...])
    text            an hh-rlhf transcript; or plain text, which is not a conversation (`read_text`)

A comparison is in chosen and rejected. These are hh-rlhf transcripts, whole lists of messages, or responses (text, one
message, messages) with the prompt in any of the formats above. `margin` may give how much better the chosen one is.

If a record has the fields of several formats, the first in this order is read, and a comparison before all others.
Fields that are null are ignored.

Arguments of all functions here: `fields` renames fields first, so {"question": "prompt", "answer": "response"} reads
`question` as `prompt`, and {"prompt": None} ignores `prompt`. `roles` renames the roles of messages:
{"model": "assistant"}. With `parse_text`, reasoning and tool calls are parsed from the assistant's text
(`chatml.parsing`).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from chatml.forms import read_message, read_messages, read_tools
from chatml.messages import Conversation, Message, Pair, RecordError, check_text, json_type
from chatml.names import Roles, rename_roles
from chatml.parsing import parse_messages
from chatml.transcripts import is_transcript, read_transcript

FIELDS = (
    *("messages", "conversations", "prompt", "response", "chosen", "rejected"),
    *("instruction", "input", "output", "history", "system", "tools", "text", "margin"),
)
"""every field that is read; `fields` renames to these"""
USUAL_NAMES = (("prompt", "completion"), ("query", "response"), ("question", "answer"))
"""other names of a prompt and its response that published data sets use"""
MORE_OF_THE_PROMPT = ("choices", "options", "context", "passage")
"""fields without which such a prompt would be incomplete, so that the record is not read (multiple choice, reading)"""

Fields = Mapping[str, str | None] | None
Messages = tuple[Message, ...]


def read_conversation(
    record: Mapping[str, Any], fields: Fields = None, roles: Roles = None, *, parse_text: bool = False
) -> Conversation:
    """Return the conversation of a record, or the chosen side of a comparison, with at least one assistant message.

    Raise RecordError.
    """
    record = rename_roles(_renamed(record, fields), roles)
    messages = _full_conversation(record, parse_text)
    if not any(message.role == "assistant" for message in messages):
        shape = _shape(record, _CONVERSATION_FIELDS)
        wanted = _RESPONSE_FIELDS.get(shape) if shape else None
        hint = (
            f"no {wanted!r}; {_fields_text(record)}" if wanted and wanted not in record else "a conversation needs one"
        )
        raise RecordError(f"no assistant turn, so nothing to train on: {hint}")
    return Conversation(messages, read_tools(record.get("tools")))


def read_prompt(
    record: Mapping[str, Any], fields: Fields = None, roles: Roles = None, *, parse_text: bool = False
) -> Conversation:
    """Return the prompt of a record in any format: the conversation without the assistant messages at its end.

    The prompt of a comparison comes from its chosen side. Raise RecordError.
    """
    record = rename_roles(_renamed(record, fields), roles)
    messages = _full_conversation(record, parse_text)
    while messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    if not any(message.role == "user" for message in messages):
        raise RecordError("no user turn before the answer, so no prompt")
    return Conversation(messages, read_tools(record.get("tools")))


def read_pair(
    record: Mapping[str, Any], fields: Fields = None, roles: Roles = None, *, parse_text: bool = False
) -> Pair:
    """Return the comparison of a record. The messages that both sides start with become its prompt.

    Messages after a side's last assistant message are dropped. Raise RecordError.
    """
    record = rename_roles(_renamed(record, fields), roles)
    missing = [name for name in ("chosen", "rejected") if name not in record]
    if missing:
        raise RecordError(f"no {' and no '.join(map(repr, missing))}, so no comparison; {_fields_text(record)}")
    chosen, rejected = (_ending_in_answer(_side(record, name, parse_text), name) for name in ("chosen", "rejected"))
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return Pair(chosen[:shared], chosen[shared:], rejected[shared:], read_tools(record.get("tools")))


def read_margin(record: Mapping[str, Any], fields: Fields = None) -> float:
    """Return the margin of a comparison (how much better its chosen side is), 0 by default. Raise RecordError."""
    margin = _renamed(record, fields).get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
        raise RecordError(f"'margin' is {margin!r}; it must be a number: how much better 'chosen' is")
    return float(margin)


def read_text(record: Mapping[str, Any], fields: Fields = None) -> str:
    """Return the plain text of a record. Raise RecordError."""
    record = _renamed(record, fields)
    if "text" not in record:
        raise RecordError(f"no 'text'; {_fields_text(record)}")
    return check_text(record["text"], "'text'")


def is_text(record: Mapping[str, Any], fields: Fields = None) -> bool:
    """Return whether a record is plain text rather than a conversation or comparison."""
    record = _renamed(record, fields)
    if not isinstance(record.get("text"), str) or _is_transcript(record["text"]):
        return False
    return _shape(record, (*_PAIR_CONTEXT_FIELDS, "chosen", "rejected")) is None


def _renamed(record: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    if not isinstance(record, Mapping):
        raise RecordError(f"it is {json_type(record)}; a record is an object")
    known = {key: value for key, value in rename_fields(record, fields).items() if value is not None}
    return rename_fields(known, usual_names(known))


def rename_fields(record: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    """Return a record with its fields renamed; a field renamed to None is left out."""
    renames = {theirs: ours for theirs, ours in (fields or {}).items() if theirs in record}
    kept = {key: value for key, value in record.items() if key not in renames and key not in renames.values()}
    return {**kept, **{ours: record[theirs] for theirs, ours in renames.items() if ours is not None}}


def usual_names(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the renames of a record whose prompt and response have other names of `USUAL_NAMES`.

    A comparison needs the prompt only. Empty for a record that has a format without them.
    """
    for asked, answered in USUAL_NAMES:
        others = {*_CONVERSATION_FIELDS, *MORE_OF_THE_PROMPT, "response", "chosen", "rejected"} - {asked, answered}
        if asked in record and answered in record and others.isdisjoint(record):
            return {asked: "prompt", answered: "response"}
        if asked in record and {"chosen", "rejected"} <= record.keys() and {*_PAIR_CONTEXT_FIELDS}.isdisjoint(record):
            return {asked: "prompt"}
    return {}


def _full_conversation(record: dict[str, Any], parse_text: bool) -> Messages:
    """Return all messages of a record, with its response if it has one."""
    if "chosen" in record and "rejected" in record:
        return _side(record, "chosen", parse_text)
    shape = _shape(record, _CONVERSATION_FIELDS)
    if shape is None and check_text(record.get("text", ""), "'text'"):
        raise RecordError("'text' is plain text, not a conversation; a transcript begins with '\\n\\nHuman:'")
    if shape is None:
        raise RecordError(f"matches no known format; {_fields_text(record)}")
    answer, messages = _RESPONSE_FIELDS.get(shape), _context(record, shape)
    if answer is not None and answer in record:
        messages = _append_answer(messages, shape, record[answer], answer)
    return parse_messages(messages) if parse_text else messages


# The messages before the response


def _shape(record: dict[str, Any], order: Sequence[str]) -> str | None:
    """Return the first field of `order` that the record has; `text` only if it is a transcript."""
    found = (name for name in order if name in record)
    return next((name for name in found if name != "text" or _is_transcript(record["text"])), None)


def _context(record: dict[str, Any], shape: str) -> Messages:
    """Return the messages in the fields of a format, without the response; the first is the system prompt, if any."""
    messages = _READERS[shape](record)
    if record.get("system", "") == "":
        return messages
    system = _message("system", record["system"], "system")
    if messages and messages[0].role == "system":
        if messages[0].content != system.content:
            raise RecordError("two system prompts: 'system' and the first message; keep one")
        return messages
    return (system, *messages)


def _prompt(record: dict[str, Any]) -> Messages:
    prompt = record["prompt"]
    if _is_transcript(prompt):
        return _without_open_turn(read_transcript(prompt, "prompt"))
    return _messages_of("user", prompt, "prompt")


def _alpaca(record: dict[str, Any]) -> Messages:
    history = record.get("history", [])
    if not isinstance(history, list | tuple):
        raise RecordError(f"'history' is {json_type(history)}; it must be a list of [question, answer]")
    messages = []
    for number, past in enumerate(history, start=1):
        if not isinstance(past, list | tuple) or len(past) != 2:
            raise RecordError(f"'history', item {number}: it must be [question, answer]")
        messages += [_message("user", past[0], "history"), _message("assistant", past[1], "history")]
    asked = [check_text(record[name], repr(name)) for name in ("instruction", "input") if record.get(name, "") != ""]
    return (*messages, Message("user", "\n".join(asked)))


_READERS = {
    "messages": lambda record: read_messages(record["messages"], "messages"),
    "conversations": lambda record: read_messages(record["conversations"], "conversations"),
    "prompt": _prompt,
    "instruction": _alpaca,
    "text": lambda record: read_transcript(record["text"], "text"),
}
_CONVERSATION_FIELDS = ("messages", "conversations", "prompt", "instruction", "text")
# In comparisons `messages` often repeats one side, so `prompt` is looked for first.
_PAIR_CONTEXT_FIELDS = ("prompt", "conversations", "instruction", "messages")
_RESPONSE_FIELDS = {"prompt": "response", "instruction": "output"}


# Responses


def _side(record: dict[str, Any], name: str, parse_text: bool) -> Messages:
    """Return one side of a comparison, with its prompt."""
    value, shape = record[name], _shape(record, _PAIR_CONTEXT_FIELDS)
    if shape is not None:
        messages = _append_answer(_context(record, shape), shape, value, name)
    elif isinstance(value, str):
        messages = read_transcript(value, name, ends_with_answer=True)
    else:
        messages = _messages_of("assistant", value, name)
    return parse_messages(messages) if parse_text else messages


def _append_answer(context: Messages, shape: str, value: Any, name: str) -> Messages:
    """Return `context`, the messages in the field `shape`, followed by the response in the field `name`.

    The response may be a whole conversation or transcript; then it must begin with the messages of `context`.
    """
    if transcript := _is_transcript(value):
        response = read_transcript(value, name, ends_with_answer=True)
    else:
        response = _messages_of("assistant", value, name)
    repeated = context
    if context and response and context[0].role == "system" and response[0].role == "user":
        repeated = context[1:]  # The response does not repeat a system prompt from a field of its own.
    if response[: len(repeated)] == (_stripped(repeated) if transcript else repeated):
        return context + response[len(repeated) :]
    if transcript:
        raise RecordError(
            f"{name!r} is a whole transcript but does not begin with the text of {shape!r}; let it begin with it, or "
            "give the answer alone"
        )
    if response and response[0].role != "assistant":
        raise RecordError(f"{name!r} neither begins with an assistant turn nor repeats {shape!r}")
    return context + response


def _stripped(messages: Messages) -> Messages:
    """Return the messages without white space around their content, as `read_transcript` returns them."""
    return tuple(dataclasses.replace(message, content=message.content.strip()) for message in messages)


def _messages_of(role: str, value: Any, name: str) -> Messages:
    """Return the messages in a field: its text as one message of `role`, one message, or a list of messages."""
    if isinstance(value, str):
        return (_message(role, value, name),)
    if isinstance(value, list | tuple):
        return read_messages(value, name)
    if not isinstance(value, Mapping):
        raise RecordError(f"{name!r} is {json_type(value)}; it must be text or messages")
    try:
        return (read_message(value),)
    except RecordError as error:
        raise RecordError(f"{name!r}: {error}") from None


def _ending_in_answer(messages: Messages, name: str) -> Messages:
    for stop in range(len(messages), 0, -1):
        if messages[stop - 1].role == "assistant":
            break
    else:
        raise RecordError(f"{name!r} has no assistant turn, so no answer to compare")
    if not any(message.role == "user" for message in messages[:stop]):
        raise RecordError(f"{name!r} has no user turn, so no prompt")
    return messages[:stop]


def _without_open_turn(messages: Messages) -> Messages:
    """Return the messages of a transcript without an empty assistant message at its end (`Assistant:` and no text)."""
    last = messages[-1]
    return messages[:-1] if last.role == "assistant" and not last.content else messages


def _is_transcript(text: Any) -> bool:
    return isinstance(text, str) and is_transcript(text)


def _message(role: str, text: Any, field: str) -> Message:
    return Message(role, check_text(text, repr(field)))


# Error messages


def _fields_text(record: Mapping[str, Any]) -> str:
    shown: Sequence[str] = list(map(str, record))
    has = f"it has {', '.join(shown)}" if shown else "it has no fields"
    return f"{has}; use data.fields to rename to {', '.join(FIELDS)}, or to leave out (null)"
