"""Render tools in the hermes format, which Qwen2.5 and later models use.

Signatures are in the system turn, calls between `<tool_call>` and `</tool_call>` in assistant turns, results between
`<tool_response>` and `</tool_response>` in user turns. If the tokenizer has tokens with these names (Qwen2.5, Qwen3),
the markers that the format adds become these tokens, as in those models' training. Text of a record never does.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from chatml.messages import Message, RecordError
from chatml.parsing import unwrap_tool_response
from chatml.tokens import TOOL_MARKERS
from chatml.turns import Part, Turn, assistant_parts, between_markers, reasoning_parts

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
    """Split fixed text of the format at its markers; re.split with a group makes every second piece a marker."""
    pieces = re.split(f"({'|'.join(TOOL_MARKERS)})", text)
    return tuple(Part(piece, False, marker=bool(at % 2)) for at, piece in enumerate(pieces))


_HEAD, _TAIL = _marked(HERMES_HEAD), _marked(HERMES_TAIL)


def hermes(messages: Sequence[Message], exchanges: Sequence[int], tools: Sequence[dict[str, Any]]) -> Iterator[Turn]:
    """Yield the turns of `messages`; `exchanges` has the exchange number of each message.

    Raise RecordError for a tool result that is already wrapped in <tool_response>.
    """
    for number, message in enumerate(messages, start=1):
        if message.role == "tool" and unwrap_tool_response(message.content) is not None:
            raise RecordError(
                f"message {number}: the result is already wrapped in <tool_response>, which is added to every result; "
                "remove the tags, or set chatml.parse_text=true"
            )
    start = 0
    if tools:
        start = 1 if messages and messages[0].role == "system" else 0
        before = f"{messages[0].content}\n\n" if start and messages[0].content else ""
        signatures = "".join("\n" + _json(tool) for tool in tools)
        system = (Part(before, False), *_HEAD, Part(signatures, False), *_TAIL)
        yield Turn("system", system, range(start), 0, excluded=start == 1 and not messages[0].train)
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
        yield from between_markers("<tool_response>", message.content, False, "</tool_response>")
        return
    if message.role != "assistant":
        yield Part(message.content, False)
        return
    yield from reasoning_parts(message)
    content = message.content if message.reasoning is None else message.content.lstrip("\n")
    if not message.tool_calls:
        yield from assistant_parts(content, message.train and message.is_nonempty)
    else:
        if content:
            yield from assistant_parts(content, message.train)
            yield Part("\n", message.train)
        for number, call in enumerate(message.tool_calls):
            if number:
                yield Part("\n", message.train)
            written = f'{{"name": {_json(call.name)}, "arguments": {_json(call.arguments)}}}'
            yield from between_markers("<tool_call>", written, message.train, "</tool_call>")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
