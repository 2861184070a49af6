"""Text to structure, on request (`chatml.parse_text`): reasoning and calls that an assistant's text spells out.

    <think>⏎…⏎</think>⏎⏎ at the beginning          reasoning_content
    <tool_call>⏎{"name": …, "arguments": …}⏎</tool_call>, one or several at the end     tool_calls

Only text of the assistant is read so. A tool's result that stands in <tool_response> as a whole is taken out of it,
since the hermes form puts it there again; what the result says stays text, and so does all that user and system say.
Markers at other places, in the middle of a sentence, are text.
"""

import dataclasses
import re
from collections.abc import Sequence

from chatml.forms import read_call, read_json
from chatml.messages import Message, RecordError, kind
from chatml.tokens import THINK, THINK_END

_CALL_START = re.compile(r"(?:^|\n)<tool_call>")
_CALL = re.compile(r"\s*<tool_call>(.*?)</tool_call>\s*", re.DOTALL)


def parsed(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Return the messages with what their text spells out in fields of its own.

    Raises RecordError, naming the message by its number from 1, for a marker without its other half, a call that is no
    JSON, text after a call, and for what is there twice, in text and in a field.
    """
    found = []
    for number, message in enumerate(messages, start=1):
        try:
            found.append(_parsed(message))
        except RecordError as error:
            raise RecordError(f"message {number}: {error}") from None
    return tuple(found)


def unwrapped(result: str) -> str | None:
    """Return a tool's result without the <tool_response> around it; None where it does not stand in one as a whole."""
    text = result.strip()
    if not (text.startswith("<tool_response>") and text.endswith("</tool_response>")):
        return None
    inner = text.removeprefix("<tool_response>").removesuffix("</tool_response>")
    return inner.removeprefix("\n").removesuffix("\n")


def _parsed(message: Message) -> Message:
    if message.role == "tool":
        inner = unwrapped(message.content)
        if inner is not None and "</tool_response>" in inner:
            raise RecordError("several <tool_response> in one message; give each result a message of its own")
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
            raise RecordError(f"{name} both in the content and beside it; keep one of them")
    return dataclasses.replace(
        message,
        content=content,
        reasoning_content=reasoning or message.reasoning_content,
        tool_calls=calls or message.tool_calls,
    )


def _reasoning(text: str) -> tuple[str | None, str]:
    """Return what is thought, None where there is no <think>, and the text after it."""
    if not text.lstrip().startswith(THINK):
        return None, text
    thought, end, rest = text.lstrip().removeprefix(THINK).partition(THINK_END)
    if not end:
        raise RecordError(f"{THINK} without {THINK_END}; close it, or set chatml.parse_text=false")
    return thought.strip("\n") or "\n", rest.lstrip("\n")


def _calls(text: str) -> tuple[str, tuple | None]:
    """Return the text before the calls, and the calls."""
    start = _CALL_START.search(text)
    if start is None:
        return text, None
    calls, at = [], start.start()
    while at < len(text):
        block = _CALL.match(text, at)
        if block is None:
            rest = text[at:].strip()
            what = "<tool_call> without </tool_call>" if rest.startswith("<tool_call>") else "text after a tool call"
            raise RecordError(f"{what}; calls stand at the end, each closed; or set chatml.parse_text=false")
        call = read_json(block[1].strip(), "a tool call")
        if not isinstance(call, dict):
            raise RecordError(f"a tool call is {kind(call)}; it must be an object with name and arguments")
        calls.append(read_call(call))
        at = block.end()
    return text[: start.start()], tuple(calls)
