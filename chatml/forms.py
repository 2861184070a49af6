"""Read messages, tool calls and tools in the published formats: OpenAI's keys (role, content, tool_calls) and
ShareGPT's (from, value).

A message may also have `train: false`, or `weight: 0`, which means the same in OpenAI's and OpenChat's files.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chatml.messages import Message, RecordError, ToolCall, check_json, check_text, json_type
from chatml.names import SHAREGPT_ROLES, unknown_role
from chatml.results import sort_results_by_call

# Keys under which published records store reasoning.
REASONING = ("reasoning_content", "reasoning", "thinking")


def read_messages(value: Any, what: str) -> tuple[Message, ...]:
    """Return the messages in a list that uses OpenAI's keys (role, content, tool_calls) or ShareGPT's (from, value).

    Tool results are sorted into the order of their calls (`chatml.results`). Raise RecordError, naming the field `what`
    and the number of the message, counted from 1.
    """
    if not isinstance(value, list | tuple):
        raise RecordError(f"{what!r} is {json_type(value)}; it must be a list of messages")
    messages = []
    for number, item in enumerate(value, start=1):
        try:
            messages.append(read_message(item))
        except RecordError as error:
            raise RecordError(f"{what!r}, message {number}: {error}") from None
    try:
        return tuple(sort_results_by_call(messages, value))
    except RecordError as error:
        raise RecordError(f"{what!r}, {error}") from None


def read_message(item: Any) -> Message:
    """Return the message in a Message, or in a mapping with OpenAI's or ShareGPT's keys. Raise RecordError."""
    if isinstance(item, Message):
        return item
    if not isinstance(item, Mapping):
        raise RecordError(f"it is {json_type(item)}; it must be an object with role and content")
    # Parquet columns contain null if a key is present in some messages only.
    given = {key: value for key, value in item.items() if value is not None}
    if "role" in given:
        return _openai(given)
    if "from" in given:
        return _sharegpt(given)
    raise RecordError(f"it has the keys {', '.join(map(str, given)) or '(none)'}; give it role and content")


def _openai(item: dict[str, Any]) -> Message:
    # OpenAI's older format: a function_call, and results with the role function.
    single = [item["function_call"]] if "function_call" in item else None
    calls = tuple(read_call(call) for call in _as_list(item.get("tool_calls", single), "tool_calls"))
    reasoning = _reasoning(item)
    if "content" not in item and not calls and not reasoning:
        raise RecordError("it has no content")
    return Message(
        role="tool" if item["role"] == "function" else item["role"],
        content=_join_text_parts(item.get("content", "")),
        train=_train(item),
        tool_calls=calls or None,
        name=item.get("name"),
        reasoning_content=reasoning,
    )


def _sharegpt(item: dict[str, Any]) -> Message:
    speaker = item["from"]
    if not isinstance(speaker, str) or speaker not in SHAREGPT_ROLES:
        raise RecordError(f"unknown speaker {unknown_role(speaker, SHAREGPT_ROLES)}")
    if "value" not in item:
        raise RecordError("it has no value")
    value, train = item["value"], _train(item)
    if speaker != "function_call":
        return Message(SHAREGPT_ROLES[speaker], _join_text_parts(value), train, reasoning_content=_reasoning(item))
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


def _join_text_parts(content: Any) -> str:
    """Return content as one string; in OpenAI's format it may also be a list of text parts."""
    if not isinstance(content, list | tuple):
        return content
    texts = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise RecordError("content has a part that is not text; plumbline reads text only")
        texts.append(check_text(part.get("text"), "content"))
    return "".join(texts)


def read_call(call: Any) -> ToolCall:
    """Return the call in `{"name", "arguments"}` or OpenAI's `{"function": {"name", "arguments"}}`.

    `arguments` may be an object or a string of JSON. Raise RecordError.
    """
    if not isinstance(call, Mapping):
        raise RecordError(f"a tool call is {json_type(call)}; it must be an object with name and arguments")
    function = call.get("function") or call
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RecordError("a tool call has no name; give it name and arguments")
    name = function["name"]
    arguments = read_json(function.get("arguments") or {}, f"the arguments of {name!r}")
    if not isinstance(arguments, Mapping):
        raise RecordError(f"the arguments of {name!r} are {json_type(arguments)}; they must be an object")
    return ToolCall(name, dict(arguments))


def read_tools(value: Any) -> tuple[dict[str, Any], ...] | None:
    """Return tools in OpenAI's format, `{"type": "function", "function": {...}}`.

    `value` is a list in this format, a list of bare functions, or either as a string of JSON. Return None for None, an
    empty string and an empty list. Raise RecordError.
    """
    if isinstance(value, str) and not value.strip():
        return None
    tools = []
    for tool in _as_list(read_json(value, "'tools'"), "'tools'"):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RecordError("'tools' has a tool without a name; give it name, description and parameters")
        check_json(function, f"the tool {function['name']!r}")
        tools.append({"type": "function", "function": dict(function)})
    return tuple(tools) or None


def read_json(value: Any, what: str) -> Any:
    """Parse a string of JSON; return any other value unchanged. Raise RecordError, naming `what`."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{what}: not valid JSON ({error})") from None


def _as_list(value: Any, what: str) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise RecordError(f"{what} is {json_type(value)}; it must be a list")
    return value
