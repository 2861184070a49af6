"""Turns: rendered messages, with a flag on every part of their text that says whether it may be trained on."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chatml.messages import Message
from chatml.tokens import THINK, THINK_END

_REACT_LINE = re.compile("^(Thought|Action|Observation):", re.MULTILINE)


class Part(NamedTuple):
    """A part of a turn's text. No token spans two parts with different `learn` flags."""

    text: str
    learn: bool
    """whether the mask `assistant` trains on it"""
    marker: bool = False
    """whether a tool format added it as one of MARKERS; it becomes the token with that name, if there is one"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One ChatML turn, with tools rendered as text."""

    role: str
    """the role after <|im_start|>"""
    parts: tuple[Part, ...]
    messages: range
    """indices of the messages in it"""
    exchange: int
    """number of its exchange, from 1; 0 for turns that all others depend on (system prompt, tools)"""
    excluded: bool = False
    """whether all of its messages have `train: false`, so that its control tokens are masked too"""
    unfinished: bool = False
    """whether the assistant continues this turn (ReAct after a tool's result), so that no <|im_end|> follows"""

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


def assistant_parts(text: str, train: bool) -> Iterator[Part]:
    """Yield the parts of an assistant's text; observations in ReAct text come from tools and are not trained on.

    An observation starts after `Observation:` at the start of a line, if a line with `Action:` precedes it since the
    last `Thought:`. It ends before the next line with `Thought:`, or at the end of the text.
    """
    if not train:
        yield Part(text, False)
        return
    start, acted, observed = 0, False, False
    for line in _REACT_LINE.finditer(text):
        if line[1] == "Action":
            acted = True
        elif line[1] == "Thought":
            if observed:
                yield Part(text[start : line.start()], False)
                start = line.start()
            acted = observed = False
        elif acted and not observed:
            yield Part(text[start : line.end()], True)
            start, observed = line.end(), True
    if start < len(text) or not text:
        yield Part(text[start:], not observed)


def between_markers(start: str, text: str, learn: bool, end: str) -> Iterator[Part]:
    """Yield a text on separate lines between two markers."""
    yield Part(start, learn, marker=True)
    yield Part(f"\n{text}\n", learn)
    yield Part(end, learn, marker=True)


def reasoning_parts(message: Message) -> Iterator[Part]:
    """Yield an assistant message's <think> block in Qwen3's format; nothing if it has no reasoning."""
    if message.reasoning is not None:
        learn = message.train and message.is_nonempty
        yield from between_markers(THINK, message.reasoning, learn, THINK_END)
        yield Part("\n\n", learn)


def number_exchanges(messages: Sequence[Message]) -> list[int]:
    """Return the exchange number of each message: 0 for a system prompt at the start, then 1, 2, ...

    An exchange is a question and everything up to the next question. It starts with the first message of a user or
    system after a message of the assistant or a tool.
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
