"""Records to conversations: the shapes that chat and comparison data come in, told apart by their fields.

A record holds a conversation as
    messages        [{role, content}, ...], and tools
    conversations   ShareGPT: [{from, value}, ...], with function_call and observation turns; system and tools beside it
    prompt          text, messages or an hh-rlhf transcript, and response (text or messages); system
    instruction     Alpaca: with input, output, system and history ([[question, answer], ...])
    text            an hh-rlhf transcript, or plain text, which is no conversation (`read_text`)
and a comparison as chosen and rejected: hh-rlhf transcripts, whole lists of messages, or answers (text, one message,
messages) beside what they answer in any of these shapes; `margin` may say how much better the chosen one is. Where a
record has the fields of several shapes, the first in this order counts, and a comparison before all. A field that is
null is not there.

`fields` renames first: {"question": "prompt", "answer": "response"} says that the file's `question` is our `prompt`;
{"prompt": None} leaves out the file's `prompt`. `roles` renames the roles of messages: {"model": "assistant"}. With
`parse_text`, reasoning and calls are read from the assistant's text (`chatml.parsing`).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from chatml.forms import read_message, read_messages, read_tools
from chatml.messages import Conversation, Message, Pair, RecordError, check_text, kind
from chatml.names import Roles, with_our_roles
from chatml.parsing import parsed
from chatml.transcripts import is_transcript, read_transcript

FIELDS = (
    *("messages", "conversations", "prompt", "response", "chosen", "rejected"),
    *("instruction", "input", "output", "history", "system", "tools", "text", "margin"),
)
"""every field that has a meaning; `fields` renames to these"""

Fields = Mapping[str, str | None] | None
Messages = tuple[Message, ...]


def read_conversation(
    record: Mapping[str, Any], fields: Fields = None, roles: Roles = None, *, parse_text: bool = False
) -> Conversation:
    """The conversation a record holds; of a comparison its chosen side. Raises RecordError.

    At least one message is the assistant's.
    """
    record = with_our_roles(_renamed(record, fields), roles)
    messages = _whole(record, parse_text)
    if not any(message.role == "assistant" for message in messages):
        wanted = _ANSWERS.get(_shape(record, _CONVERSATIONS))
        hint = f"no {wanted!r}; {_has(record)}" if wanted and wanted not in record else "a conversation needs one"
        raise RecordError(f"no assistant turn, so nothing to train on: {hint}")
    return Conversation(messages, read_tools(record.get("tools")))


def read_prompt(
    record: Mapping[str, Any], fields: Fields = None, roles: Roles = None, *, parse_text: bool = False
) -> Conversation:
    """What the assistant is to answer: the conversation without the assistant turns it ends with, if it does.

    Any shape will do, with an answer or without; of a comparison the chosen side is cut. Raises RecordError.
    """
    record = with_our_roles(_renamed(record, fields), roles)
    messages = _whole(record, parse_text)
    while messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    if not any(message.role == "user" for message in messages):
        raise RecordError("no user turn before the answer, so nothing to ask")
    return Conversation(messages, read_tools(record.get("tools")))


def read_pair(
    record: Mapping[str, Any], fields: Fields = None, roles: Roles = None, *, parse_text: bool = False
) -> Pair:
    """The comparison a record holds; what both sides share from the start is the prompt, wherever it stood.

    Turns after a side's last answer are left out. Raises RecordError.
    """
    record = with_our_roles(_renamed(record, fields), roles)
    missing = [name for name in ("chosen", "rejected") if name not in record]
    if missing:
        raise RecordError(f"no {' and no '.join(map(repr, missing))}, so no comparison; {_has(record)}")
    chosen, rejected = (_ending_in_answer(_side(record, name, parse_text), name) for name in ("chosen", "rejected"))
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    return Pair(chosen[:shared], chosen[shared:], rejected[shared:], read_tools(record.get("tools")))


def read_margin(record: Mapping[str, Any], fields: Fields = None) -> float:
    """How much better a comparison's chosen side is, where its record says so; else 0. Raises RecordError."""
    margin = _renamed(record, fields).get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not math.isfinite(margin):
        raise RecordError(f"'margin' is {margin!r}; it must be a number: how much better 'chosen' is")
    return float(margin)


def read_text(record: Mapping[str, Any], fields: Fields = None) -> str:
    """The plain text of a record. Raises RecordError."""
    record = _renamed(record, fields)
    if "text" not in record:
        raise RecordError(f"no 'text'; {_has(record)}")
    return check_text(record["text"], "'text'")


def is_text(record: Mapping[str, Any], fields: Fields = None) -> bool:
    """Whether a record holds plain text rather than a conversation."""
    record = _renamed(record, fields)
    if not isinstance(record.get("text"), str) or _is_transcript(record["text"]):
        return False
    return _shape(record, (*_COMPARISONS, "chosen", "rejected")) is None


def _renamed(record: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
    if not isinstance(record, Mapping):
        raise RecordError(f"it is {kind(record)}; a record is an object")
    renames = {theirs: ours for theirs, ours in (fields or {}).items() if theirs in record}
    kept = {key: value for key, value in record.items() if key not in renames and key not in renames.values()}
    renamed = {**kept, **{ours: record[theirs] for theirs, ours in renames.items() if ours is not None}}
    return {key: value for key, value in renamed.items() if value is not None}


def _whole(record: dict[str, Any], parse_text: bool) -> Messages:
    """All messages of a record, its answer included if it has one."""
    if "chosen" in record and "rejected" in record:
        return _side(record, "chosen", parse_text)
    shape = _shape(record, _CONVERSATIONS)
    if shape is None and check_text(record.get("text", ""), "'text'"):
        raise RecordError("'text' is plain text, not a conversation; a transcript begins with '\\n\\nHuman:'")
    if shape is None:
        raise RecordError(f"fits no shape of record; {_has(record)}")
    answer, messages = _ANSWERS.get(shape), _beginning(record, shape)
    if answer in record:
        messages = _answered(messages, shape, record[answer], answer)
    return parsed(messages) if parse_text else messages


# What a conversation begins with


def _shape(record: dict[str, Any], order: Sequence[str]) -> str | None:
    """The first field of `order` that the record has; `text` only where it is a transcript."""
    found = (name for name in order if name in record)
    return next((name for name in found if name != "text" or _is_transcript(record["text"])), None)


def _beginning(record: dict[str, Any], shape: str) -> Messages:
    """The system prompt, if there is one, and the messages in the fields that make up a shape, without the answer."""
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
    return _said("user", prompt, "prompt")


def _alpaca(record: dict[str, Any]) -> Messages:
    history = record.get("history", [])
    if not isinstance(history, list | tuple):
        raise RecordError(f"'history' is {kind(history)}; it must be a list of [question, answer]")
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
_CONVERSATIONS = ("messages", "conversations", "prompt", "instruction", "text")
# A comparison's `messages` often repeat one of its sides; what both answer is then in `prompt`.
_COMPARISONS = ("prompt", "conversations", "instruction", "messages")
_ANSWERS = {"prompt": "response", "instruction": "output"}


# Answers


def _side(record: dict[str, Any], name: str, parse_text: bool) -> Messages:
    """One whole side of a comparison, from the first message on."""
    value, shape = record[name], _shape(record, _COMPARISONS)
    if shape is not None:
        messages = _answered(_beginning(record, shape), shape, value, name)
    elif isinstance(value, str):
        messages = read_transcript(value, name, ends_with_answer=True)
    else:
        messages = _said("assistant", value, name)
    return parsed(messages) if parse_text else messages


def _answered(context: Messages, shape: str, value: Any, name: str) -> Messages:
    """A whole conversation: what the fields of `shape` hold, and the answer to it in the field `name`.

    The answer may be a whole conversation or transcript itself; then it has to begin with what it answers.
    """
    if transcript := _is_transcript(value):
        said = read_transcript(value, name, ends_with_answer=True)
    else:
        said = _said("assistant", value, name)
    repeated = context
    if context and said and context[0].role == "system" and said[0].role == "user":
        repeated = context[1:]  # the system prompt stands beside, and the answer does not repeat it
    if said[: len(repeated)] == (_stripped(repeated) if transcript else repeated):
        return context + said[len(repeated) :]
    if transcript:
        raise RecordError(
            f"{name!r} is a whole transcript, and does not begin with what {shape!r} holds; let it begin so, or hold "
            "the answer alone"
        )
    if said and said[0].role != "assistant":
        raise RecordError(f"{name!r} neither begins with an assistant turn nor repeats {shape!r}")
    return context + said


def _stripped(messages: Messages) -> Messages:
    """The messages as a transcript holds them: without white space around."""
    return tuple(dataclasses.replace(message, content=message.content.strip()) for message in messages)


def _said(role: str, value: Any, name: str) -> Messages:
    """What a field holds: text said by `role`, one message, or messages."""
    if isinstance(value, str):
        return (_message(role, value, name),)
    if isinstance(value, list | tuple):
        return read_messages(value, name)
    if not isinstance(value, Mapping):
        raise RecordError(f"{name!r} is {kind(value)}; it must be text or messages")
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
        raise RecordError(f"{name!r} has no user turn, so nothing that it answers")
    return messages[:stop]


def _without_open_turn(messages: Messages) -> Messages:
    """Without the empty assistant turn of a transcript that ends in `Assistant:`, waiting for its answer."""
    last = messages[-1]
    return messages[:-1] if last.role == "assistant" and not last.content else messages


def _is_transcript(text: Any) -> bool:
    return isinstance(text, str) and is_transcript(text)


def _message(role: str, text: Any, field: str) -> Message:
    return Message(role, check_text(text, repr(field)))


# Words for errors


def _has(record: Mapping[str, Any]) -> str:
    shown: Sequence[str] = list(map(str, record))
    has = f"it has {', '.join(shown)}" if shown else "it has no fields"
    return f"{has}; use data.fields to rename to {', '.join(FIELDS)}, or to leave out (null)"
