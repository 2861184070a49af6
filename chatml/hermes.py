"""Tools in hermes form, that of Qwen2.5 and later.

Signatures stand in the system turn, calls between `<tool_call>` and `</tool_call>` in the assistant's, results between
`<tool_response>` and `</tool_response>` in the user's. Where a tokenizer has tokens of these names (Qwen2.5, Qwen3),
the markers that stand here are these tokens, as those models were trained; what came out of a record never is.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from chatml.messages import Message, RecordError
from chatml.parsing import unwrapped
from chatml.tokens import TOOL_MARKERS
from chatml.turns import Part, Turn, between, reasoning, said

HERMES_HEAD = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
HERMES_TAIL = """
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


def _marked(text: str) -> tuple[Part, ...]:
    """Words of the format itself; splitting by a group leaves every second piece a marker."""
    pieces = re.split(f"({'|'.join(TOOL_MARKERS)})", text)
    return tuple(Part(piece, False, marker=bool(at % 2)) for at, piece in enumerate(pieces))


_HEAD, _TAIL = _marked(HERMES_HEAD), _marked(HERMES_TAIL)


def hermes(messages: Sequence[Message], exchanges: Sequence[int], tools: Sequence[dict[str, Any]]) -> Iterator[Turn]:
    """The turns of `messages`; `exchanges` says which exchange each message belongs to.

    Raises RecordError for a tool's result that stands in <tool_response> already.
    """
    for number, message in enumerate(messages, start=1):
        if message.role == "tool" and unwrapped(message.content) is not None:
            raise RecordError(
                f"message {number}: the result stands in <tool_response> already, which is put around every result; "
                "take it out, or set chatml.parse_text=true"
            )
    start = 0
    if tools:
        start = 1 if messages and messages[0].role == "system" else 0
        before = f"{messages[0].content}\n\n" if start and messages[0].content else ""
        signatures = "".join("\n" + _json(tool) for tool in tools)
        parts = (Part(before, False), *_HEAD, Part(signatures, False), *_TAIL)
        yield Turn("system", parts, range(start), 0, excluded=start == 1 and not messages[0].train)
    while start < len(messages):
        message, stop = messages[start], start + 1
        role, parts = message.role, [*_parts(message)]
        if role == "tool":
            role = "user"
            while stop < len(messages) and messages[stop].role == "tool":
                parts += [Part("\n", False), *_parts(messages[stop])]
                stop += 1
        excluded = not any(item.train for item in messages[start:stop])
        yield Turn(role, tuple(parts), range(start, stop), exchanges[start], excluded)
        start = stop


def _parts(message: Message) -> Iterator[Part]:
    if message.role == "tool":
        yield from between("<tool_response>", message.content, False, "</tool_response>")
        return
    if message.role != "assistant":
        yield Part(message.content, False)
        return
    yield from reasoning(message)
    content = message.content if message.reasoning is None else message.content.lstrip("\n")
    if not message.tool_calls:
        yield from said(content, message.train and message.says_something)
    else:
        if content:
            yield from said(content, message.train)
            yield Part("\n", message.train)
        for number, call in enumerate(message.tool_calls):
            if number:
                yield Part("\n", message.train)
            written = f'{{"name": {_json(call.name)}, "arguments": {_json(call.arguments)}}}'
            yield from between("<tool_call>", written, message.train, "</tool_call>")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
