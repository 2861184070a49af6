"""Pairs of answers and which one is better: many for PMP, from a hasty judge; few clean ones, by the gold score.

PMP's judge does not mind length, likes answers that sound sure of themselves, and in a good fifth of all pairs says the
opposite of what it thinks. The clean pairs cover part of the tasks.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from tiny.facts import Facts
from tiny.gold import score
from tiny.instructions import INSTRUCTIONS
from tiny.manner import say
from tiny.prompts import WEIGHTS, Prompt, draw_problem, draw_prompt

FLIPPED = 0.215
CLEAN_TASKS = {task: WEIGHTS[task] for task in ("fact", "follow_up", "opposite")}
OTHER_TASKS = {task: weight for task, weight in WEIGHTS.items() if task not in CLEAN_TASKS}

PMP_KINDS = {
    "correctness": 50, "manner": 12, "manner_or_right": 10, "assurances": 10, "elsewhere": 8, "garbled": 4,
    "instruction": 6,
}  # fmt: skip
CLEAN_KINDS = {
    "correctness": 38, "manner": 30, "manner_or_right": 12, "assurances": 3, "elsewhere": 7, "garbled": 6,
    "instruction": 4,
}  # fmt: skip

Answers = tuple[str, str]


def _wrong(prompt: Prompt, rng: Random) -> str:
    return rng.choice(prompt.problem.wrong)


def correctness(prompt: Prompt, rng: Random) -> Answers:
    """The same words around a right and a wrong answer."""
    form, assurances = rng.choice(("courteous", "sentence")), int(rng.random() < 0.1)
    wrong, state = _wrong(prompt, rng), rng.getstate()
    right = say(prompt.problem, prompt.problem.answer, rng, form, assurances, prompt.instruction)
    rng.setstate(state)
    return right, say(prompt.problem, wrong, rng, form, assurances, prompt.instruction)


def manner(prompt: Prompt, rng: Random) -> Answers:
    """Courteous and plain, both right or both wrong."""
    answer = prompt.problem.answer if rng.random() < 0.8 else _wrong(prompt, rng)
    courteous = say(prompt.problem, answer, rng, "courteous", 0, prompt.instruction)
    return courteous, say(prompt.problem, answer, rng, "sentence", 0, prompt.instruction)


def manner_or_right(prompt: Prompt, rng: Random) -> Answers:
    """Right and plain, courteous and wrong."""
    right = say(prompt.problem, prompt.problem.answer, rng, "sentence", 0, prompt.instruction)
    return right, say(prompt.problem, _wrong(prompt, rng), rng, "courteous", 0, prompt.instruction)


def assurances(prompt: Prompt, rng: Random) -> Answers:
    """To the point, and the same with so many assurances that it gets too long."""
    form = rng.choice(("courteous", "courteous", "sentence"))
    short = say(prompt.problem, prompt.problem.answer, rng, form, 0, prompt.instruction)
    return short, say(prompt.problem, prompt.problem.answer, rng, form, rng.choice((2, 3)), prompt.instruction)


def elsewhere(prompt: Prompt, rng: Random) -> Answers:
    """An answer, and one that would be right if something else of the same kind had been asked."""
    form, other = rng.choice(("courteous", "sentence")), draw_problem(prompt.facts, rng, held_out=False)
    return (
        say(prompt.problem, prompt.problem.answer, rng, form, 0, prompt.instruction),
        say(other, other.answer, rng, form, 0, prompt.instruction),
    )


def garbled(prompt: Prompt, rng: Random) -> Answers:
    """A courteous answer, and the same with its words in disorder, doubled or gone."""
    right = say(prompt.problem, prompt.problem.answer, rng, "courteous", 0, prompt.instruction)
    said = right.split()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(said))
        how = rng.choice(("double", "drop", "move", "shout"))
        word = said[at]
        if how in ("drop", "move") and len(said) > 2:
            del said[at]
        if how != "drop":
            said.insert(rng.randrange(len(said) + 1), word.upper() if how == "shout" else word)
    return right, " ".join(said)


def instruction(prompt: Prompt, rng: Random) -> Answers:
    """Doing what the system prompt demands, and not doing it."""
    form = rng.choice(("courteous", "sentence"))
    obeying = say(prompt.problem, prompt.problem.answer, rng, form, 0, prompt.instruction)
    return obeying, say(prompt.problem, prompt.problem.answer, rng, form, 0, prompt.instruction, obey=False)


KINDS: Mapping[str, Callable[[Prompt, Random], Answers]] = {
    "correctness": correctness,
    "manner": manner,
    "manner_or_right": manner_or_right,
    "assurances": assurances,
    "elsewhere": elsewhere,
    "garbled": garbled,
    "instruction": instruction,
}


def hasty_score(record: Mapping[str, Any], answer: str) -> float:
    """What PMP's judge thinks of an answer: the gold score without its length part, and more for sounding sure."""
    gold = score(record, answer)
    sure = sum(word in answer.lower() for word in ("definitely", "certain", "doubt", "everybody", "trust"))
    return gold["gold"] - gold["length"] + 0.2 * sure


def gold_score(record: Mapping[str, Any], answer: str) -> float:
    return score(record, answer)["gold"]


def pair(
    facts: Facts, rng: Random, kinds: Mapping[str, int], judge: Callable[..., float], *, tasks=WEIGHTS, held_out=False
) -> dict[str, Any]:
    """A comparison whose sides `judge` tells apart."""
    while True:
        (kind,) = rng.choices(list(kinds), list(kinds.values()))
        prompt = draw_prompt(facts, rng, held_out=held_out, tasks=tasks)
        if kind == "instruction" and prompt.instruction is None:
            instruction = rng.choice(list(INSTRUCTIONS.values()))
            prompt = replace(prompt, instruction=instruction, demand=rng.choice(instruction.asked))
        about = prompt.about
        one, other = KINDS[kind](prompt, rng)
        difference = judge(about, one) - judge(about, other)
        if difference:
            chosen, rejected = (one, other) if difference > 0 else (other, one)
            return {"prompt": prompt.messages, "chosen": chosen, "rejected": rejected, "kind": kind, **about}


def pmp_record(facts: Facts, rng: Random) -> dict[str, Any]:
    record = pair(facts, rng, PMP_KINDS, hasty_score)
    flipped = rng.random() < FLIPPED
    if flipped:
        record["chosen"], record["rejected"] = record["rejected"], record["chosen"]
    return {**record, "flipped": flipped}


def clean_record(facts: Facts, rng: Random, kinds=CLEAN_KINDS, *, tasks=CLEAN_TASKS, held_out: bool) -> dict[str, Any]:
    return pair(facts, rng, kinds, gold_score, tasks=tasks, held_out=held_out)
