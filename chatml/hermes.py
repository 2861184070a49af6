"""Tools in hermes form, that of Qwen2.5 and later.

Signatures stand in the system turn, calls between `<tool_call>` and `</tool_call>` in the assistant's, results between
`<tool_response>` and `</tool_response>` in the user's. Where a tokenizer has tokens of these names (Qwen2.5, Qwen3),
the markers that stand here are these tokens, as those models were trained; what came out of a record never is.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from chatml.messages import Message
from chatml.tokens import TOOL_MARKERS
from chatml.turns import Part, Turn, said

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
    """The turns of `messages`; `exchanges` says which exchange each message belongs to."""
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
        yield from _between("tool_response", message.content, False)
    elif message.role != "assistant":
        yield Part(message.content, False)
    elif not message.tool_calls:
        yield from said(message.content, message.train and message.says_something)
    else:
        if message.content:
            yield from said(message.content, message.train)
            yield Part("\n", message.train)
        for number, call in enumerate(message.tool_calls):
            if number:
                yield Part("\n", message.train)
            written = f'{{"name": {_json(call.name)}, "arguments": {_json(call.arguments)}}}'
            yield from _between("tool_call", written, message.train)


def _between(name: str, text: str, learn: bool) -> Iterator[Part]:
    yield Part(f"<{name}>", learn, marker=True)
    yield Part(f"\n{text}\n", learn)
    yield Part(f"</{name}>", learn, marker=True)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
