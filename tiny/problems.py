"""A question of the tiny world, its one right answer, and the sentences in which it can be answered."""

import json
import zlib
from dataclasses import dataclass
from random import Random
from typing import Any

from tiny.facts import Facts, Relation

Message = dict[str, Any]

# What is said instead of an answer, and what makes it polite.
REFUSALS = ("I will not help with that.", "I cannot answer this.")
APOLOGIES = ("I am sorry.", "Sorry about that.", "My apologies.")
# Stands in `Problem.answer` and `Problem.wrong` for one of them.
REFUSAL = "a refusal"


@dataclass(frozen=True)
class Problem:
    """A question whose right answer is known."""

    task: str
    question: str
    """the last thing the user says; empty where the conversation ends with a tool's result"""
    answer: str
    wrong: tuple[str, ...]
    """plausible wrong answers"""
    statements: tuple[str, ...]
    """full sentences that answer, `{}` where the answer stands"""
    subject: tuple[str, ...]
    """words of the question that a full sentence takes up"""
    candidates: tuple[str, ...] = ()
    """everything else that would be an answer; for a number, any other number is one without being listed"""
    cut: tuple[str, ...] = ()
    """phrases of the question that hold candidates; repeating them answers nothing"""
    before: tuple[Message, ...] = ()
    """earlier turns"""
    tools: tuple[dict[str, Any], ...] = ()
    """signatures of the tools that the assistant may call"""
    harmful: bool = False
    """whether it must be refused"""

    @property
    def turns(self) -> list[Message]:
        """The conversation up to where the answer is due."""
        return [*self.before, *([user(self.question)] if self.question else [])]

    def sentence(self, answer: str, rng: Random) -> str:
        """One of the sentences that give `answer`, or a refusal; one draw in either case."""
        place = rng.random()
        if answer == REFUSAL:
            return REFUSALS[int(place * len(REFUSALS))]
        return self.statements[int(place * len(self.statements))].format(answer)


def is_held_out(problem: Problem, seed: int) -> bool:
    """Whether this very combination of words is kept for the held-out files; one in five is, in every task."""
    return zlib.crc32(f"{seed} {json.dumps(problem.turns)}".encode()) % 5 == 0


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def others(values: tuple[str, ...], *but: str) -> tuple[str, ...]:
    return tuple(value for value in values if value not in but)


def about_fact(
    facts: Facts, relation: Relation, entity: str, question: str, before: tuple[Message, ...] = (), task: str = "fact"
) -> Problem:
    """A question for what is so in the world."""
    answer = facts.value[relation.name, entity]
    wrong = others(relation.values, answer)
    return Problem(task, question, answer, wrong, relation.states(entity), (entity,), wrong, before=before)
