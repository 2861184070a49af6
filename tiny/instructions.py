"""What a system prompt may demand of every answer: how it is asked, how one obeys, and whether one did."""

from collections.abc import Callable
from dataclasses import dataclass

from tiny.wording import words


@dataclass(frozen=True)
class Instruction:
    name: str
    asked: tuple[str, ...]
    """ways to demand it"""
    obey: Callable[[str], str]
    """an answer that follows it, made from one that has not heard of it"""
    followed: Callable[[str], bool]
    forbids: str = ""
    """a word that no answer may hold"""


def _avoid(word: str) -> Instruction:
    return Instruction(
        f"without {word}",
        (f"Do not use the word {word}.", f"Never say {word}."),
        lambda text: text,  # whoever chooses the courtesies leaves it out: `tiny.manner`
        lambda text: word not in words(text),
        forbids=word,
    )


INSTRUCTIONS = {
    instruction.name: instruction
    for instruction in (
        _avoid("please"),
        _avoid("gladly"),
        _avoid("course"),
    )
}
