"""Render tools in the ReAct format (report, 3.4).

The instruction and the tools precede the question. All rounds of Thought, Action, Action Input and Observation are in
one assistant turn. Qwen's code puts the instruction before the last question. Here it precedes the first, so that every
response of a conversation sees the tools, and a prompt is always a prefix of the whole conversation. A call without a
thought gets one ("I can use NAME."), which the report does not specify.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from chatml.messages import Message, RecordError, ToolCall
from chatml.turns import Part, Turn, assistant_parts, reasoning_parts

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


def react(messages: Sequence[Message], exchanges: Sequence[int], tools: Sequence[dict[str, Any]]) -> Iterator[Turn]:
    """Yield the turns of `messages`; `exchanges` has the exchange number of each message.

    Raise RecordError for parallel calls of which some have no result.
    """
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
            parts, unfinished = _answer(messages, range(start, stop), bool(tools))
        else:
            role = message.role
            text = message.content if start != introduction else _instruction(tools) + message.content
            parts = (Part(text, False),)
        exchange = 0 if exchanges[start] == base else exchanges[start]
        excluded = not any(item.train for item in messages[start:stop])
        yield Turn(role, parts, range(start, stop), exchange, excluded, unfinished)
        start = stop


def _continues(messages: Sequence[Message], index: int) -> bool:
    """Whether this message is rendered inside the assistant turn of the message before it."""
    return messages[index].role == "tool" or (
        messages[index].role == "assistant" and messages[index - 1].role == "tool"
    )


def _instruction(tools: Sequence[dict[str, Any]]) -> str:
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


def _answer(messages: Sequence[Message], indices: range, tools: bool) -> tuple[tuple[Part, ...], bool]:
    """Return one assistant turn (rounds of action and observation, then the response), and whether it is unfinished."""
    parts: list[Part] = []
    waiting: list[tuple[ToolCall, bool]] = []  # parallel calls, rendered one after the other

    def act(call: ToolCall, thought: str, learn: bool) -> None:
        parts.append(Part("Thought: ", learn))
        parts.extend(assistant_parts(thought or f"I can use {call.name}.", learn))
        written = f"\nAction: {call.name}\nAction Input: {_json(call.arguments)}\nObservation:"
        parts.append(Part(written, learn))

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
        parts.extend(reasoning_parts(message))
        content = message.content if message.reasoning is None else message.content.lstrip("\n")
        if message.tool_calls:
            first, *others = message.tool_calls
            act(first, content, message.train)
            waiting = [(call, message.train) for call in others]
        else:
            learn = message.train and message.is_nonempty
            if tools or len(indices) > 1:
                parts.append(Part(REACT_ANSWER, learn))
            parts.extend(assistant_parts(content, learn))
    if waiting:
        raise RecordError(
            f"message {indices[-1] + 1}: {len(waiting) + 1} tools are called at once and some results are missing; "
            "ReAct allows one call at a time: add the results, or use chatml.tools=hermes"
        )
    unfinished = indices[-1] == len(messages) - 1 and messages[indices[-1]].role == "tool"
    if unfinished:
        parts.append(Part("\nThought:", False))
    return tuple(parts), unfinished


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
