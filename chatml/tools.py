"""Messages to turns: tools, their calls and their results written out as the text of ordinary ChatML turns.

Two ways to write them. `hermes` is the form of Qwen2.5 and later: signatures in the system turn, calls between
`<tool_call>` and `</tool_call>` in the assistant's, results between `<tool_response>` and `</tool_response>` in the
user's. `react` is the report's (3.4): instruction and tools before the question, and all rounds of Thought, Action,
Action Input and Observation inside one assistant turn. Qwen's code attaches the instruction to the last question; here
it stands before the first, so that every answer of a conversation sees the tools, and so that a prompt is always what
the whole conversation begins with. Our choice, too: the thought before a call that came without one.

All of it is text, to be encoded like any other: `<tool_call>` is spelled out even where a tokenizer has a token of that
name, because nothing that came out of a record may become an added token.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from chatml.messages import Message, RecordError, ToolCall

ToolFormat = Literal["hermes", "react"]

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

REACT_HEAD = """Answer the following questions as best you can. You have access to the following tools:

{tools}

Use the following format:

Question: the input question you must answer
Thought: you should always think about what to do
Action: the action to take, should be one of [{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question

Begin!

Question: """
REACT_TOOL = (
    "{name}: Call this tool to interact with the {name} API. What is the {name} API useful for? {description} "
    "Parameters: {parameters} Format the arguments as a JSON object."
)
REACT_ANSWER = "Thought: I now know the final answer.\nFinal Answer: "


class Part(NamedTuple):
    """A stretch of a turn's text."""

    text: str
    learn: bool
    """whether the assistant said it, and may learn to say it"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One ChatML turn, tools already written out."""

    role: str
    """the word after <|im_start|>"""
    parts: tuple[Part, ...]
    messages: range
    """indices of the messages it was made of"""
    exchange: int
    """which exchange it belongs to, counted from 1; 0 for what every later turn builds on (system prompt, tools)"""
    excluded: bool = False
    """none of its messages may be trained on, whatever the mask's rules for the tokens around the text"""
    unfinished: bool = False
    """the assistant is to go on inside this turn (ReAct after a tool's result), so no <|im_end|> follows"""

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


def render(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None, tool_format: ToolFormat = "hermes"
) -> list[Turn]:
    """The turns that `messages` are written as. Pure; raises RecordError where a format cannot hold them."""
    exchanges = number_exchanges(messages)
    if tool_format == "react":
        return list(_react(messages, exchanges, tools or ()))
    return list(_hermes(messages, exchanges, tools or ()))


def number_exchanges(messages: Sequence[Message]) -> list[int]:
    """For each message the exchange it belongs to: 0 for a system prompt at the start, then 1, 2, ...

    An exchange is what is asked and all that follows until the next is asked: it begins with the first message that is
    not the assistant's or a tool's after one that is.
    """
    numbers: list[int] = []
    number, asking = 0, False
    for index, message in enumerate(messages):
        prompt = index == 0 and message.role == "system"
        asks = message.role in ("system", "user") and not prompt
        if not prompt and (number == 0 or (asks and not asking)):
            number += 1
        asking = asks
        numbers.append(number)
    return numbers


# Hermes


def _hermes(messages: Sequence[Message], exchanges: list[int], tools: Sequence[dict[str, Any]]) -> Iterator[Turn]:
    start = 0
    if tools:
        signatures = "".join("\n" + _json(tool) for tool in tools)
        text = f"{HERMES_HEAD}{signatures}{HERMES_TAIL}"
        if messages and messages[0].role == "system":
            text = f"{messages[0].content}\n\n{text}" if messages[0].content else text
            start = 1
        yield Turn("system", (Part(text, False),), range(start), 0, excluded=start == 1 and not messages[0].train)
    while start < len(messages):
        message, stop = messages[start], start + 1
        if message.role == "tool":
            while stop < len(messages) and messages[stop].role == "tool":
                stop += 1
            said = messages[start:stop]
            role, text = "user", "\n".join(f"<tool_response>\n{tool.content}\n</tool_response>" for tool in said)
        else:
            said = (message,)
            role, text = message.role, "\n".join(_hermes_lines(message))
        train = any(item.train for item in said)
        learn = role == "assistant" and train
        yield Turn(role, (Part(text, learn),), range(start, stop), exchanges[start], excluded=not train)
        start = stop


def _hermes_lines(message: Message) -> Iterator[str]:
    if message.content or not message.tool_calls:
        yield message.content
    for call in message.tool_calls or ():
        yield f'<tool_call>\n{{"name": {_json(call.name)}, "arguments": {_json(call.arguments)}}}\n</tool_call>'


# ReAct


def _react(messages: Sequence[Message], exchanges: list[int], tools: Sequence[dict[str, Any]]) -> Iterator[Turn]:
    questions = (index for index, message in enumerate(messages) if message.role == "user")
    introduction = next(questions, None) if tools else None
    base = exchanges[introduction] if introduction is not None else 0
    start = 0
    while start < len(messages):
        message, stop, unfinished = messages[start], start + 1, False
        if message.role in ("assistant", "tool"):
            while stop < len(messages) and _continues(messages, stop):
                stop += 1
            role = "assistant"
            parts, unfinished = _react_answer(messages, range(start, stop), bool(tools))
        else:
            role = message.role
            text = message.content if start != introduction else _react_instruction(tools) + message.content
            parts = (Part(text, False),)
        exchange = 0 if exchanges[start] == base else exchanges[start]
        excluded = not any(item.train for item in messages[start:stop])
        yield Turn(role, parts, range(start, stop), exchange, excluded, unfinished)
        start = stop


def _continues(messages: Sequence[Message], index: int) -> bool:
    """Whether this message is written into the assistant turn of the one before it."""
    return messages[index].role == "tool" or (
        messages[index].role == "assistant" and messages[index - 1].role == "tool"
    )


def _react_instruction(tools: Sequence[dict[str, Any]]) -> str:
    functions = [tool["function"] for tool in tools]
    lines = [
        REACT_TOOL.format(
            name=function["name"],
            description=function.get("description") or "",
            parameters=_json(function.get("parameters") or {}),
        )
        for function in functions
    ]
    names = ", ".join(function["name"] for function in functions)
    return REACT_HEAD.format(tools="\n\n".join(lines), names=names)


def _react_answer(messages: Sequence[Message], indices: range, tools: bool) -> tuple[tuple[Part, ...], bool]:
    """One assistant turn: rounds of an action and its observation, then the answer; and whether it is unfinished."""
    parts: list[Part] = []
    waiting: list[tuple[ToolCall, bool]] = []  # calls made together are written one after the other

    def act(call: ToolCall, thought: str, learn: bool) -> None:
        parts.append(
            Part(
                f"Thought: {thought or f'I can use {call.name}.'}\nAction: {call.name}\n"
                f"Action Input: {_json(call.arguments)}\nObservation:",
                learn,
            )
        )

    for index in indices:
        message = messages[index]
        if message.role == "tool":
            parts.append(Part(f" {message.content}", False))
            if waiting:
                parts.append(Part("\n", False))
                act(waiting[0][0], "", waiting.pop(0)[1])
            continue
        if parts:
            parts.append(Part("\n", False))
        if message.tool_calls:
            first, *others = message.tool_calls
            act(first, message.content, message.train)
            waiting = [(call, message.train) for call in others]
        else:
            answers = tools or len(indices) > 1
            parts.append(Part((REACT_ANSWER if answers else "") + message.content, message.train))
    if waiting:
        raise RecordError(
            f"message {indices[-1] + 1}: {len(waiting) + 1} tools are called at once and not all have answered; "
            "ReAct writes one call at a time: add the results, or use chatml.tools=hermes"
        )
    unfinished = indices[-1] == len(messages) - 1 and messages[indices[-1]].role == "tool"
    if unfinished:
        parts.append(Part("\nThought:", False))
    return tuple(parts), unfinished


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
