"""What a conversation is made of: messages with roles, calls of tools, and comparisons between answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from chatml.names import unknown

ROLES = ("system", "user", "assistant", "tool")


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
    reasoning_content: str | None = None
    """what an assistant thinks before its content; line breaks around it do not count, and of nothing else are an empty
    thought, as Qwen3 writes it where it does not think"""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RecordError(f"unknown role {unknown(self.role, ROLES)}")
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
    def says_something(self) -> bool:
        """False for an answer of nothing but white space: to learn it is to learn silence."""
        return bool(self.content.strip() or self.tool_calls or self.reasoning)

    @property
    def reasoning(self) -> str | None:
        """The reasoning as it is written; None where there is none."""
        return self.reasoning_content.strip("\n") if self.reasoning_content else None

    def as_dict(self) -> dict[str, Any]:
        """The message as `apply_chat_template` takes it; keys that say nothing are left out."""
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
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, ValueError) and str(error).startswith("Out of range float"):
            raise RecordError(
                f"{what}: a number that JSON does not have (NaN, Infinity, or beyond 1.8e308); write it as text"
            ) from None
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
