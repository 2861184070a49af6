"""Prompts: a problem with an optional persona and instruction in the system prompt, and data for the gold score."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from tiny import harm, tasks
from tiny.facts import Facts
from tiny.instructions import INSTRUCTIONS, Instruction
from tiny.problems import Problem, is_held_out

PERSONAS = ("You are a helpful assistant.", "You are a friendly guide.", "You help visitors of this small world.")
SYSTEM_SHARE, INSTRUCTION_SHARE = 0.15, 0.2

TASKS: Mapping[str, Callable[[Facts, Random], Problem]] = {
    "fact": tasks.fact,
    "follow_up": tasks.follow_up,
    "opposite": tasks.opposite,
    "recall": tasks.recall,
    "tool": tasks.tool,
    "sum": tasks.sum_,
    "code": tasks.code,
    "harmful": harm.harmful,
    "look_alike": harm.look_alike,
}
# Relative frequency of each task.
WEIGHTS: Mapping[str, int] = {
    "fact": 32, "follow_up": 13, "opposite": 11, "sum": 6, "code": 5, "recall": 5, "tool": 4,
    "harmful": 12, "look_alike": 12,
}  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    facts: Facts
    problem: Problem
    persona: str | None
    """the part of the system prompt before the instruction"""
    instruction: Instruction | None
    demand: str | None
    """the sentence that gives the instruction"""

    @property
    def messages(self) -> list[dict[str, Any]]:
        system = " ".join(text for text in (self.persona, self.demand) if text)
        return [*([{"role": "system", "content": system}] if system else []), *self.problem.turns]

    @property
    def record(self) -> dict[str, Any]:
        """The prompt as a record of a prompts file."""
        return {"messages": self.messages, **self.metadata}

    @property
    def metadata(self) -> dict[str, Any]:
        """Fields of every record made from this prompt: tools (if any), task, and the data for the gold score."""
        problem = self.problem
        tools = {"tools": list(problem.tools)} if problem.tools else {}
        gold = {
            "right": problem.answer,
            "candidates": list(problem.candidates),
            "cut": list(problem.cut),
            "subject": list(problem.subject),
            "instruction": self.instruction.name if self.instruction else None,
            "harmful": problem.harmful,
        }
        return {**tools, "task": problem.task, "gold": gold}


def draw_prompt(facts: Facts, rng: Random, *, held_out: bool, tasks: Mapping[str, int] = WEIGHTS) -> Prompt:
    """Draw a prompt, from the word combinations that are held out or from the others; `tasks` are task weights."""
    problem = draw_problem(facts, rng, held_out=held_out, tasks=tasks)
    persona = instruction = demand = None
    if rng.random() < SYSTEM_SHARE:
        persona = rng.choice(PERSONAS)
    if rng.random() < INSTRUCTION_SHARE:
        instruction = rng.choice(list(INSTRUCTIONS.values()))
        demand = rng.choice(instruction.phrasings)
    return Prompt(facts, problem, persona, instruction, demand)


def draw_problem(facts: Facts, rng: Random, *, held_out: bool, tasks: Mapping[str, int] = WEIGHTS) -> Problem:
    """Draw a problem, from the word combinations that are held out or from the others; `tasks` are task weights."""
    (task,) = rng.choices(list(tasks), list(tasks.values()))
    while True:
        problem = TASKS[task](facts, rng)
        if is_held_out(problem, facts.seed) == held_out:
            return problem
