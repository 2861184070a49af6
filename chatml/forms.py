"""Messages, calls and tools in the forms that they are published in: OpenAI's keys (role, content, tool_calls) and
ShareGPT's (from, value).

Of a message also `train: false` is read, and `weight: 0`, which says the same in OpenAI's and OpenChat's files.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chatml.messages import Message, RecordError, ToolCall, check_json, check_text, kind
from chatml.names import SPEAKERS, unknown
from chatml.results import in_order_of_calls

# What a model thought before its content, by the names that published records give it.
REASONING = ("reasoning_content", "reasoning", "thinking")


def read_messages(value: Any, what: str) -> tuple[Message, ...]:
    """Messages from a list of them, in OpenAI's keys (role, content, tool_calls) or ShareGPT's (from, value).

    Results of tools come in the order of their calls (`chatml.results`). `what` names the field in errors, together
    with the message's number, counted from 1. Raises RecordError.
    """
    if not isinstance(value, list | tuple):
        raise RecordError(f"{what!r} is {kind(value)}; it must be a list of messages")
    messages = []
    for number, item in enumerate(value, start=1):
        try:
            messages.append(read_message(item))
        except RecordError as error:
            raise RecordError(f"{what!r}, message {number}: {error}") from None
    try:
        return tuple(in_order_of_calls(messages, value))
    except RecordError as error:
        raise RecordError(f"{what!r}, {error}") from None


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
    # OpenAI's form before tool_calls: a function_call, and answers of the role function.
    single = [item["function_call"]] if "function_call" in item else None
    calls = tuple(read_call(call) for call in _listed(item.get("tool_calls", single), "tool_calls"))
    reasoning = _reasoning(item)
    if "content" not in item and not calls and not reasoning:
        raise RecordError("it has no content")
    return Message(
        role="tool" if item["role"] == "function" else item["role"],
        content=_joined(item.get("content", "")),
        train=_train(item),
        tool_calls=calls or None,
        name=item.get("name"),
        reasoning_content=reasoning,
    )


def _sharegpt(item: dict[str, Any]) -> Message:
    speaker = item["from"]
    if not isinstance(speaker, str) or speaker not in SPEAKERS:
        raise RecordError(f"unknown speaker {unknown(speaker, SPEAKERS)}")
    if "value" not in item:
        raise RecordError("it has no value")
    value, train = item["value"], _train(item)
    if speaker != "function_call":
        return Message(SPEAKERS[speaker], _joined(value), train, reasoning_content=_reasoning(item))
    written = read_json(value, "the function call")
    calls = tuple(read_call(call) for call in (written if isinstance(written, list) else [written]))
    if not calls:
        raise RecordError("the function call is an empty list")
    return Message("assistant", "", train, calls, reasoning_content=_reasoning(item))


def _reasoning(item: dict[str, Any]) -> str | None:
    given = {key: check_text(item[key], key) for key in REASONING if item.get(key)}
    if len(set(given.values())) > 1:
        raise RecordError(f"{' and '.join(given)} differ; keep one of them")
    return next(iter(given.values()), None)


def _train(item: dict[str, Any]) -> Any:
    weight = item.get("weight", 1)
    if weight not in (0, 1):
        raise RecordError(f"weight is {weight!r}; use 0 or 1")
    return item.get("train", bool(weight))


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


def read_call(call: Any) -> ToolCall:
    """A call from `{"name", "arguments"}` or OpenAI's `{"function": {"name", "arguments"}}`. Raises RecordError."""
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
