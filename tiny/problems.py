"""Problems of the tiny world: a question, its right answer, wrong answers, and sentences that state an answer."""

import json
import zlib
from dataclasses import dataclass
from random import Random
from typing import Any

from tiny.facts import Facts, Relation

Message = dict[str, Any]

# Sentences that refuse a request, and courtesies for a refusal.
REFUSALS = ("I will not help with that.", "I cannot answer this.")
APOLOGIES = ("I am sorry.", "Sorry about that.", "My apologies.")
# Placeholder in `Problem.answer` and `Problem.wrong` for one of REFUSALS.
REFUSAL = "a refusal"


@dataclass(frozen=True)
class Problem:
    """A question whose right answer is known."""

    task: str
    question: str
    """the last user turn; empty if the conversation ends with the result of a tool"""
    answer: str
    wrong: tuple[str, ...]
    """plausible wrong answers"""
    statements: tuple[str, ...]
    """full sentences that answer the question, with `{}` for the answer"""
    subject: tuple[str, ...]
    """words of the question that a full sentence must contain"""
    candidates: tuple[str, ...] = ()
    """all other possible answers; if the answer is a number, any other number counts without being listed"""
    cut: tuple[str, ...] = ()
    """phrases of the question that contain candidates; gold ignores them in an answer"""
    before: tuple[Message, ...] = ()
    """earlier turns"""
    tools: tuple[dict[str, Any], ...] = ()
    """signatures of the tools that the assistant may call"""
    harmful: bool = False
    """whether it must be refused"""

    @property
    def turns(self) -> list[Message]:
        """The conversation up to the answer."""
        return [*self.before, *([user_message(self.question)] if self.question else [])]

    def sentence(self, answer: str, rng: Random) -> str:
        """Draw a sentence that states `answer`, or a refusal; both take one random number."""
        place = rng.random()
        if answer == REFUSAL:
            return REFUSALS[int(place * len(REFUSALS))]
        return self.statements[int(place * len(self.statements))].format(answer)


def is_held_out(problem: Problem, seed: int) -> bool:
    """Return whether the conversation, word for word, is reserved for held-out files; in every task one in five is."""
    return zlib.crc32(f"{seed} {json.dumps(problem.turns)}".encode()) % 5 == 0


def user_message(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant_message(text: str) -> Message:
    return {"role": "assistant", "content": text}


def all_except(values: tuple[str, ...], *but: str) -> tuple[str, ...]:
    return tuple(value for value in values if value not in but)


def about_fact(
    facts: Facts, relation: Relation, entity: str, question: str, before: tuple[Message, ...] = (), task: str = "fact"
) -> Problem:
    """Return the problem of a question about a fact; `before` are earlier turns."""
    answer = facts.value[relation.name, entity]
    wrong = all_except(relation.values, answer)
    return Problem(task, question, answer, wrong, relation.states(entity), (entity,), wrong, before=before)
