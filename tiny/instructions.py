"""What a system prompt may demand of every answer: that it does without a certain word."""

from dataclasses import dataclass

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
