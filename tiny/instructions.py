"""Instructions in system prompts: each forbids a word in all answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tiny.wording import words


@dataclass(frozen=True)
class Instruction:
    forbids: str
    """the forbidden word"""

    @property
    def name(self) -> str:
        return f"without {self.forbids}"

    @property
    def phrasings(self) -> tuple[str, ...]:
        """Sentences of a system prompt that give the instruction."""
        return f"Do not use the word {self.forbids}.", f"Never say {self.forbids}."

    def followed(self, answer: str) -> bool:
        """Return whether the answer does not contain the word."""
        return self.forbids not in words(answer)


# Each word occurs in one of the courtesies (tiny.manner.OPENINGS).
INSTRUCTIONS = {demand.name: demand for demand in map(Instruction, ("pleasure", "gladly", "course"))}


def obeys(record: Mapping[str, Any], answer: str) -> bool:
    """Return whether an answer follows the instruction in the record's system turn.

    `record["gold"]["instruction"]` is the name of the instruction; KeyError if it is None.
    """
    return INSTRUCTIONS[record["gold"]["instruction"]].followed(answer)
