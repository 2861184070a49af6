"""Turns: messages as they are written, tools already put into words, and who of it is to be learnt from."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from chatml.messages import Message
from chatml.tokens import THINK, THINK_END

_REACT_LINE = re.compile("^(Thought|Action|Observation):", re.MULTILINE)


class Part(NamedTuple):
    """A stretch of a turn's text. It never shares a token with a neighbour that is learnt where it is not."""

    text: str
    learn: bool
    """whether the assistant said it, and may learn to say it"""
    marker: bool = False
    """one of MARKERS that a format put there: the token of that name, where the tokenizer has one"""


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


def said(text: str, train: bool) -> Iterator[Part]:
    """What an assistant's message says, as parts; in ReAct text an observation is the tool's, and not to be learnt.

    It goes from after a line's `Observation:`, where a line with `Action:` came before it since the last `Thought:`, to
    the next line with `Thought:` or to the end.
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


def between(start: str, text: str, learn: bool, end: str) -> Iterator[Part]:
    """Text on lines of its own between two markers."""
    yield Part(start, learn, marker=True)
    yield Part(f"\n{text}\n", learn)
    yield Part(end, learn, marker=True)


def reasoning(message: Message) -> Iterator[Part]:
    """What an assistant's message thinks before it speaks, as Qwen3 writes it; nothing where it does not."""
    if message.reasoning is not None:
        learn = message.train and message.says_something
        yield from between(THINK, message.reasoning, learn, THINK_END)
        yield Part("\n\n", learn)


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
