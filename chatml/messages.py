"""Messages, tool calls, conversations, and comparisons between two responses."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from chatml.names import unknown_role

ROLES = ("system", "user", "assistant", "tool")


class RecordError(ValueError):
    """A record that cannot be read: what is wrong, and how to fix it. File readers prepend `file:line: `."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call of the assistant. Raises RecordError if the name is not text or the arguments are not JSON."""

    name: str
    arguments: dict[str, Any]

    def __post_init__(self) -> None:
        check_text(self.name, "a tool's name")
        check_json(self.arguments, f"the arguments of {self.name!r}")

    def as_dict(self) -> dict[str, Any]:
        return {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation. Raises RecordError if a field is invalid."""

    role: str
    """one of ROLES"""
    content: str
    """the text; for the role tool, the tool's result"""
    train: bool = True
    """whether the message is trained on; the mask `all` ignores this"""
    tool_calls: tuple[ToolCall, ...] | None = None
    """calls of an assistant message, rendered after its content"""
    name: str | None = None
    """for the role tool: the name of the tool"""
    reasoning_content: str | None = None
    """an assistant's reasoning, rendered before its content; line breaks around it are removed. Line breaks alone give
    an empty <think> block, as Qwen3 has it with thinking turned off"""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RecordError(f"unknown role {unknown_role(self.role, ROLES)}")
        check_text(self.content, "content")
        if not isinstance(self.train, bool):
            raise RecordError(f"train is {self.train!r}; use true or false")
        if self.tool_calls and self.role != "assistant":
            raise RecordError(f"a {self.role} message calls tools; only an assistant message can")
        if self.reasoning_content is not None:
            check_text(self.reasoning_content, "reasoning_content")
            if self.role != "assistant":
                raise RecordError(f"a {self.role} message has reasoning_content; only an assistant message can")

    @property
    def is_nonempty(self) -> bool:
        """Whether there is a call, reasoning or text that is not white space; empty messages are not trained on."""
        return bool(self.content.strip() or self.tool_calls or self.reasoning)

    @property
    def reasoning(self) -> str | None:
        """The reasoning without line breaks around it; None if the message has none."""
        return self.reasoning_content.strip("\n") if self.reasoning_content else None

    def as_dict(self) -> dict[str, Any]:
        """Return the message as `apply_chat_template` takes it, without keys that have their default."""
        plain: dict[str, Any] = {"role": self.role, "content": self.content}
        if not self.train:
            plain["train"] = False
        if self.tool_calls:
            plain["tool_calls"] = [call.as_dict() for call in self.tool_calls]
        if self.name is not None:
            plain["name"] = self.name
        if self.reasoning_content is not None:
            plain["reasoning_content"] = self.reasoning_content
        return plain


class Conversation(NamedTuple):
    """Messages in order, and the tools that the assistant may call (in OpenAI's format)."""

    messages: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None


class Pair(NamedTuple):
    """A comparison: the shared prompt, and the messages that follow it in the preferred and in the rejected side.

    Both sides end with an assistant message.
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...] | None = None


def check_text(text: Any, what: str) -> str:
    """Return `text` if it is a string that can be encoded as UTF-8; else raise RecordError, naming `what`."""
    if not isinstance(text, str):
        raise RecordError(f"{what} is {json_type(text)}; it must be a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RecordError(
            f"{what} has half a surrogate pair ({text[error.start]!a} at character {error.start}); "
            "it is not text: write the whole character"
        ) from None
    return text


def check_json(value: Any, what: str) -> None:
    """Raise RecordError, naming `what`, if a value cannot be written as JSON in UTF-8."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ValueError) and str(error).startswith("Out of range float"):
            raise RecordError(
                f"{what}: a number that JSON cannot represent (NaN, Infinity, or beyond 1.8e308); write it as text"
            ) from None
        raise RecordError(f"{what} cannot be written as JSON ({error}); use text, numbers, lists and objects") from None
    check_text(written, what)


def json_type(value: Any) -> str:
    """Return the type of a JSON value for an error message: "a string", "an object", "null", ..."""
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
