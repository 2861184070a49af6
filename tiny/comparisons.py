"""Pairs of answers and which one is better: many for PMP, from a hasty judge; few clean ones, by the gold score.

PMP's judge does not mind length, likes answers that sound sure of themselves, and in a good fifth of all pairs says the
opposite of what it thinks. The clean pairs are of two kinds, each for a reward model of its own: helpful ones, mostly
of right answers and manners, and harmless ones, of refusing what is harmful and answering what only looks so. PPO is
asked what is compared (COMPARED_TASKS) and nothing else: what reward models were not trained on they score at random.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from tiny.facts import RELATIONS, Facts
from tiny.gold import score
from tiny.instructions import INSTRUCTIONS
from tiny.manner import say
from tiny.problems import REFUSAL, about_fact
from tiny.prompts import WEIGHTS, Prompt, draw_problem, draw_prompt

FLIPPED = 0.215
# Helpful comparisons hold harmful requests too, answers to which are worse. Without them the helpful reward model
# preferred these answers, and PPO led to more harm.
PLAIN_TASKS = {task: WEIGHTS[task] for task in ("fact", "follow_up", "opposite")}
HELPFUL_TASKS = PLAIN_TASKS | {"harmful": 8, "look_alike": 8}
HARMLESS_TASKS = {"harmful": 45, "look_alike": 35, "fact": 12, "follow_up": 4, "opposite": 4}
COMPARED_TASKS = PLAIN_TASKS | {"harmful": 20, "look_alike": 14}
OTHER_TASKS = {task: weight for task, weight in WEIGHTS.items() if task not in COMPARED_TASKS}

PMP_KINDS = {
    "correctness": 38, "manner": 12, "manner_or_right": 10, "assurances": 10, "beside": 8, "elsewhere": 6, "garbled": 4,
    "instruction": 6, "refusal": 6,
}  # fmt: skip
# Without `beside` PPO learnt to answer "And Otto?" with whatever is true of Otto.
HELPFUL_KINDS = {
    "correctness": 34, "manner": 24, "manner_or_right": 12, "assurances": 3, "beside": 16, "elsewhere": 3, "garbled": 4,
    "instruction": 4,
}  # fmt: skip
HARMLESS_KINDS = {"refusal": 80, "manner": 10, "garbled": 10}

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


def beside(prompt: Prompt, rng: Random) -> Answers:
    """An answer, and something true of the same person that was not asked for; of other subjects, any other answer."""
    problem, facts = prompt.problem, prompt.facts
    subject = problem.subject[0]
    unasked = [
        relation
        for relation in RELATIONS
        if subject in relation.entities and relation.states(subject) != problem.statements
    ]
    if not unasked:
        return elsewhere(prompt, rng)
    other = about_fact(facts, rng.choice(unasked), subject, problem.question)
    right, wrong = (
        say(one, one.answer, rng, rng.choice(("courteous", "sentence")), 0, prompt.instruction)
        for one in (problem, other)
    )
    return right, wrong


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


def refusal(prompt: Prompt, rng: Random) -> Answers:
    """A refusal, and an answer that the same question would have without any harm."""
    told = prompt.problem.wrong[0] if prompt.problem.harmful else prompt.problem.answer
    form, other_form = (rng.choice(("courteous", "sentence")) for _ in range(2))
    return (
        say(prompt.problem, REFUSAL, rng, form, 0, prompt.instruction),
        say(prompt.problem, told, rng, other_form, 0, prompt.instruction),
    )


KINDS: Mapping[str, Callable[[Prompt, Random], Answers]] = {
    "correctness": correctness,
    "manner": manner,
    "manner_or_right": manner_or_right,
    "assurances": assurances,
    "beside": beside,
    "elsewhere": elsewhere,
    "garbled": garbled,
    "instruction": instruction,
    "refusal": refusal,
}


def hasty_score(record: Mapping[str, Any], answer: str) -> float:
    """What PMP's judge thinks of an answer: the gold score without its length part, and more for sounding sure."""
    gold = score(record, answer)
    sure = sum(word in answer.lower() for word in ("definitely", "certain", "doubt", "everybody", "trust"))
    return gold["gold"] - gold["length"] + 0.2 * sure


def gold_score(record: Mapping[str, Any], answer: str) -> float:
    return score(record, answer)["gold"]


def pair(
    facts: Facts,
    rng: Random,
    kinds: Mapping[str, int],
    judge: Callable[..., float],
    *,
    tasks: Mapping[str, int],
    held_out=False,
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
    record = pair(facts, rng, PMP_KINDS, hasty_score, tasks=WEIGHTS)
    flipped = rng.random() < FLIPPED
    if flipped:
        record["chosen"], record["rejected"] = record["rejected"], record["chosen"]
    return {**record, "flipped": flipped}


def helpful_record(
    facts: Facts, rng: Random, kinds=HELPFUL_KINDS, *, tasks=HELPFUL_TASKS, held_out: bool
) -> dict[str, Any]:
    return pair(facts, rng, kinds, gold_score, tasks=tasks, held_out=held_out)


def harmless_record(facts: Facts, rng: Random, *, held_out: bool) -> dict[str, Any]:
    return pair(facts, rng, HARMLESS_KINDS, gold_score, tasks=HARMLESS_TASKS, held_out=held_out)
