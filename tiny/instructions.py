"""What a system prompt may demand of every answer: that it does without a certain word."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tiny.wording import words


@dataclass(frozen=True)
class Instruction:
    forbids: str
    """the word that no answer may hold"""

    @property
    def name(self) -> str:
        return f"without {self.forbids}"

    @property
    def asked(self) -> tuple[str, ...]:
        """Ways to demand it."""
        return f"Do not use the word {self.forbids}.", f"Never say {self.forbids}."

    def followed(self, answer: str) -> bool:
        return self.forbids not in words(answer)


# Each word is part of a courtesy (tiny.manner).
INSTRUCTIONS = {demand.name: demand for demand in map(Instruction, ("pleasure", "gladly", "course"))}


def obeys(record: Mapping[str, Any], answer: str) -> bool:
    """Whether an answer does what the record's system turn demands; `record["gold"]["instruction"]` names that."""
    return INSTRUCTIONS[record["gold"]["instruction"]].followed(answer)
