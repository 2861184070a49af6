"""What a conversation is made of: messages with roles, calls of tools, and comparisons between answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

ROLES = ("system", "user", "assistant", "tool")

# ShareGPT's words for the speakers. A function call is the assistant speaking; it is told apart by `_sharegpt`.
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "system": "system",
}


class RecordError(ValueError):
    """A record that cannot be read: what is wrong and the way out. Readers of files put `file:line: ` before."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool, as the assistant writes it."""

    name: str
    arguments: dict[str, Any]

    def __post_init__(self) -> None:
        check_text(self.name, "a tool's name")
        check_json(self.arguments, f"the arguments of {self.name!r}")

    def as_dict(self) -> dict[str, Any]:
        return {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, before it is written as ChatML. Raises RecordError where a field cannot be used."""

    role: str
    """one of ROLES"""
    content: str
    """what is said; a tool's result where the role is tool"""
    train: bool = True
    """false keeps this one message out of the loss (it has no say where the mask is `all`)"""
    tool_calls: tuple[ToolCall, ...] | None = None
    """what an assistant asks of tools, after its content"""
    name: str | None = None
    """the tool that answers, where the role is tool"""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RecordError(f"unknown role {self.role!r}; use {', '.join(ROLES)}")
        check_text(self.content, "content")
        if not isinstance(self.train, bool):
            raise RecordError(f"train is {self.train!r}; use true or false")
        if self.tool_calls and self.role != "assistant":
            raise RecordError(f"a {self.role} message calls tools; only an assistant message can")

    @property
    def says_something(self) -> bool:
        """False for an answer of nothing but white space: to learn it is to learn silence."""
        return bool(self.content.strip() or self.tool_calls)

    def as_dict(self) -> dict[str, Any]:
        """The message as `apply_chat_template` takes it; keys that say nothing are left out."""
        plain: dict[str, Any] = {"role": self.role, "content": self.content}
        if not self.train:
            plain["train"] = False
        if self.tool_calls:
            plain["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        if self.name is not None:
            plain["name"] = self.name
        return plain


class Conversation(NamedTuple):
    """Messages in order, and the tools that the assistant may call in them."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None


class Pair(NamedTuple):
    """A comparison: what both sides share, then the better and the worse rest. Both end in an assistant turn."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None


def check_text(text: Any, what: str) -> str:
    """`text` itself, if tokens can be made of it. Raises RecordError naming `what` where they cannot."""
    if not isinstance(text, str):
        raise RecordError(f"{what} is {kind(text)}; it must be a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            f"{what} holds half a surrogate pair ({text[error.start]!a} at character {error.start}); "
            "it is no text: write the character whole"
        ) from None
    return text


def check_json(value: Any, what: str) -> None:
    """Raises RecordError naming `what` where a value cannot be written as JSON, or not as text."""
    try:
        written = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"{what} cannot be written as JSON ({error}); use text, numbers, lists and objects") from None
    check_text(written, what)


def kind(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, Sequence):
        return "a list"
    return "a number" if isinstance(value, int | float) else f"a {type(value).__name__}"


def read_messages(value: Any, what: str) -> tuple[Message, ...]:
    """Messages from a list of them, in OpenAI's keys (role, content, tool_calls) or ShareGPT's (from, value).

    `what` names the field in errors, together with the message's number, counted from 1. Raises RecordError.
    """
    if not isinstance(value, list | tuple):
        raise RecordError(f"{what!r} is {kind(value)}; it must be a list of messages")
    messages = []
    for number, item in enumerate(value, start=1):
        try:
            messages.append(read_message(item))
        except RecordError as error:
            raise RecordError(f"{what!r}, message {number}: {error}") from None
    return tuple(messages)


def read_message(item: Any) -> Message:
    """One message from a Message or a mapping in OpenAI's or ShareGPT's keys. Raises RecordError."""
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping):
        raise RecordError(f"it is {kind(item)}; it must be an object with role and content")
    # Columns of a parquet file hold null where one message has a key that another lacks.
    given = {key: value for key, value in item.items() if value is not None}
    if "role" in given:
        return _openai(given)
    if "from" in given:
        return _sharegpt(given)
    raise RecordError(f"it has the keys {', '.join(map(str, given)) or '(none)'}; give it role and content")


def _openai(item: dict[str, Any]) -> Message:
    calls = tuple(_call(call) for call in _listed(item.get("tool_calls"), "tool_calls"))
    if "content" not in item and not calls:
        raise RecordError("it has no content")
    return Message(
        role=item["role"],
        content=_joined(item.get("content", "")),
        train=item.get("train", True),
        tool_calls=calls or None,
        name=item.get("name"),
    )


def _sharegpt(item: dict[str, Any]) -> Message:
    speaker = item["from"]
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise RecordError(f"unknown speaker {speaker!r}; use {', '.join(SPEAKERS)}")
    if "value" not in item:
        raise RecordError("it has no value")
    value, train = item["value"], item.get("train", True)
    if speaker != "function_call":
        return Message(SPEAKERS[speaker], _joined(value), train)
    written = read_json(value, "the function call")
    calls = tuple(_call(call) for call in (written if isinstance(written, list) else [written]))
    if not calls:
        raise RecordError("the function call is an empty list")
    return Message("assistant", "", train, calls)


def _joined(content: Any) -> str:
    """Content as one string; OpenAI also writes it as a list of text parts."""
    if not isinstance(content, list | tuple):
        return content
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise RecordError("content holds a part that is no text; plumbline reads text only")
        texts.append(check_text(part.get("text"), "content"))
    return "".join(texts)


def _call(call: Any) -> ToolCall:
    if not isinstance(call, Mapping):
        raise RecordError(f"a tool call is {kind(call)}; it must be an object with name and arguments")
    function = call.get("function") or call
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RecordError("a tool call has no name; give it name and arguments")
    name = function["name"]
    arguments = read_json(function.get("arguments") or {}, f"the arguments of {name!r}")
    if not isinstance(arguments, Mapping):
        raise RecordError(f"the arguments of {name!r} are {kind(arguments)}; they must be an object")
    return ToolCall(name, dict(arguments))


def read_tools(value: Any) -> tuple[dict[str, Any], ...] | None:
    """Tools as OpenAI writes them (`{"type": "function", "function": {...}}`), from that form, bare functions, or JSON.

    Nothing, an empty string and an empty list are no tools: None. Raises RecordError.
    """
    if isinstance(value, str) and not value.strip():
        return None
    tools = []
    for tool in _listed(read_json(value, "'tools'"), "'tools'"):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RecordError("'tools' holds a tool without a name; give it name, description and parameters")
        check_json(function, f"the tool {function['name']!r}")
        tools.append({"type": "function", "function": dict(function)})
    return tuple(tools) or None


def read_json(value: Any, what: str) -> Any:
    """What a string of JSON says; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{what}: no JSON ({error})") from None


def _listed(value: Any, what: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise RecordError(f"{what} is {kind(value)}; it must be a list")
    return value
