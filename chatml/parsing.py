"""Parse reasoning and tool calls from the text of assistant messages, if `chatml.parse_text` is set.

    <think>⏎…⏎</think>⏎⏎ at the start                                                   -> reasoning_content
    <tool_call>⏎{"name": …, "arguments": …}⏎</tool_call>, one or several at the end     -> tool_calls

Only assistant messages are parsed. If <tool_response> tags enclose the whole of a tool result, they are removed, since
the hermes format adds them again; the result itself, and all text of user and system, stays text. Markers anywhere
else, for example in the middle of a sentence, are text.
"""

import dataclasses
import re
from collections.abc import Sequence

from chatml.forms import read_call, read_json
from chatml.messages import Message, RecordError, json_type
from chatml.tokens import THINK, THINK_END

_CALL_START = re.compile(r"(?:^|\n)<tool_call>")
_CALL = re.compile(r"\s*<tool_call>(.*?)</tool_call>\s*", re.DOTALL)


def parse_messages(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with reasoning and tool calls moved from their text to the fields for them.

    Raise RecordError, naming the number of the message from 1, for an unclosed marker, a call that is not valid JSON,
    text after a call, and for reasoning or calls that are both in the text and in a field.
    """
    found = []
    for number, message in enumerate(messages, start=1):
        try:
            found.append(_parse_message(message))
        except RecordError as error:
            raise RecordError(f"message {number}: {error}") from None
    return tuple(found)


def unwrap_tool_response(result: str) -> str | None:
    """Return a tool result without its <tool_response> tags; None if they do not enclose all of it."""
    text = result.strip()
    if not (text.startswith("<tool_response>") and text.endswith("</tool_response>")):
        return None
    inner = text.removeprefix("<tool_response>").removesuffix("</tool_response>")
    return inner.removeprefix("\n").removesuffix("\n")


def _parse_message(message: Message) -> Message:
    if message.role == "tool":
        inner = unwrap_tool_response(message.content)
        if inner is not None and "</tool_response>" in inner:
            raise RecordError("several <tool_response> in one message; put each result into its own message")
        return message if inner is None else dataclasses.replace(message, content=inner)
    if message.role != "assistant":
        return message
    reasoning, rest = _reasoning(message.content)
    content, calls = _calls(rest)
    for name, here, there in (
        ("reasoning", reasoning, message.reasoning_content),
        ("tool calls", calls, message.tool_calls),
    ):
        if here and there:
            raise RecordError(f"{name} both in the content and in a separate field; keep one of them")
    return dataclasses.replace(
        message,
        content=content,
        reasoning_content=reasoning or message.reasoning_content,
        tool_calls=calls or message.tool_calls,
    )


def _reasoning(text: str) -> tuple[str | None, str]:
    """Return the reasoning (None without <think>) and the text after it."""
    if not text.lstrip().startswith(THINK):
        return None, text
    thought, end, rest = text.lstrip().removeprefix(THINK).partition(THINK_END)
    if not end:
        raise RecordError(f"{THINK} without {THINK_END}; close it, or set chatml.parse_text=false")
    return thought.strip("\n") or "\n", rest.lstrip("\n")


def _calls(text: str) -> tuple[str, tuple | None]:
    """Return the text before the tool calls, and the calls."""
    start = _CALL_START.search(text)
    if start is None:
        return text, None
    calls, at = [], start.start()
    while at < len(text):
        block = _CALL.match(text, at)
        if block is None:
            rest = text[at:].strip()
            what = "<tool_call> without </tool_call>" if rest.startswith("<tool_call>") else "text after a tool call"
            raise RecordError(f"{what}; put calls last and close each of them, or set chatml.parse_text=false")
        call = read_json(block[1].strip(), "a tool call")
        if not isinstance(call, dict):
            raise RecordError(f"a tool call is {json_type(call)}; it must be an object with name and arguments")
        calls.append(read_call(call))
        at = block.end()
    return text[: start.start()], tuple(calls)
