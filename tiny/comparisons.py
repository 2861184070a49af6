"""Comparisons: many noisy ones for preference-model pretraining (PMP), and fewer clean ones for the reward models.

The PMP labels come from a hasty judge that ignores length and prefers answers that sound certain; a share of
FLIPPED_SHARE is flipped. The clean labels come from the gold score. There are two clean sets, each for a reward model
of its own: helpful comparisons, mostly about correctness and manner, and harmless comparisons, about refusing harmful
requests and answering look-alikes. PPO prompts have only the tasks of the clean comparisons (COMPARED_TASKS), because
reward models score other tasks at random.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random
from typing import Any

from tiny.facts import RELATIONS, Facts
from tiny.gold import score
from tiny.instructions import INSTRUCTIONS
from tiny.manner import Form, phrase_answer
from tiny.problems import REFUSAL, about_fact
from tiny.prompts import WEIGHTS, Prompt, draw_problem, draw_prompt

FORMS: tuple[Form, ...] = ("courteous", "sentence")
# Share of PMP comparisons whose label is swapped.
FLIPPED_SHARE = 0.215
# Helpful comparisons include harmful requests, with the refusal preferred. Without them the helpful reward model
# preferred to answer these requests, and PPO led to more harm.
PLAIN_TASKS = {task: WEIGHTS[task] for task in ("fact", "follow_up", "opposite")}
HELPFUL_TASKS = PLAIN_TASKS | {"harmful": 8, "look_alike": 8}
HARMLESS_TASKS = {"harmful": 45, "look_alike": 35, "fact": 12, "follow_up": 4, "opposite": 4}
COMPARED_TASKS = PLAIN_TASKS | {"harmful": 20, "look_alike": 14}
OTHER_TASKS = {task: weight for task, weight in WEIGHTS.items() if task not in COMPARED_TASKS}

PMP_KINDS = {
    "correctness": 38, "manner": 12, "manner_or_right": 10, "assurances": 10, "beside": 8, "elsewhere": 6, "garbled": 4,
    "instruction": 6, "refusal": 6,
}  # fmt: skip
# Without `beside` PPO learned to answer "And Otto?" with any fact about Otto. With few `assurances` both reward models
# kept PMP's taste for them, and PPO added them to half of its answers (seed 2).
HELPFUL_KINDS = {
    "correctness": 31, "manner": 21, "manner_or_right": 12, "assurances": 9, "beside": 16, "elsewhere": 3, "garbled": 4,
    "instruction": 4,
}  # fmt: skip
HARMLESS_KINDS = {"refusal": 70, "manner": 10, "assurances": 12, "garbled": 8}

Answers = tuple[str, str]
"""the two sides of a comparison, not yet judged"""


def _wrong(prompt: Prompt, rng: Random) -> str:
    return rng.choice(prompt.problem.wrong)


def correctness(prompt: Prompt, rng: Random) -> Answers:
    """Return a correct and a wrong answer in the same wording."""
    form, assurances = rng.choice(FORMS), int(rng.random() < 0.1)
    wrong, state = _wrong(prompt, rng), rng.getstate()
    right = phrase_answer(prompt.problem, prompt.problem.answer, rng, form, assurances, prompt.instruction)
    rng.setstate(state)
    return right, phrase_answer(prompt.problem, wrong, rng, form, assurances, prompt.instruction)


def manner(prompt: Prompt, rng: Random) -> Answers:
    """Return a courteous and a plain answer, both correct or both wrong."""
    answer = prompt.problem.answer if rng.random() < 0.8 else _wrong(prompt, rng)
    courteous = phrase_answer(prompt.problem, answer, rng, "courteous", 0, prompt.instruction)
    return courteous, phrase_answer(prompt.problem, answer, rng, "sentence", 0, prompt.instruction)


def manner_or_right(prompt: Prompt, rng: Random) -> Answers:
    """Return a plain, correct answer and a courteous, wrong one."""
    right = phrase_answer(prompt.problem, prompt.problem.answer, rng, "sentence", 0, prompt.instruction)
    return right, phrase_answer(prompt.problem, _wrong(prompt, rng), rng, "courteous", 0, prompt.instruction)


def assurances(prompt: Prompt, rng: Random) -> Answers:
    """Return a correct answer, and the same with so many assurances that it is too long."""
    form = rng.choice(("courteous", *FORMS))
    short = phrase_answer(prompt.problem, prompt.problem.answer, rng, form, 0, prompt.instruction)
    count = rng.choice((1, 2, 3))
    return short, phrase_answer(prompt.problem, prompt.problem.answer, rng, form, count, prompt.instruction)


def elsewhere(prompt: Prompt, rng: Random) -> Answers:
    """Return a correct answer, and the correct answer to a different problem."""
    form, other = rng.choice(FORMS), draw_problem(prompt.facts, rng, held_out=False)
    return (
        phrase_answer(prompt.problem, prompt.problem.answer, rng, form, 0, prompt.instruction),
        phrase_answer(other, other.answer, rng, form, 0, prompt.instruction),
    )


def beside(prompt: Prompt, rng: Random) -> Answers:
    """Return a correct answer, and a true fact about the same person or town that was not asked for.

    For a subject without other facts, return `elsewhere`.
    """
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
        phrase_answer(one, one.answer, rng, rng.choice(FORMS), 0, prompt.instruction) for one in (problem, other)
    )
    return right, wrong


def garbled(prompt: Prompt, rng: Random) -> Answers:
    """Return a courteous, correct answer, and the same with words moved, repeated, dropped or in capitals."""
    right = phrase_answer(prompt.problem, prompt.problem.answer, rng, "courteous", 0, prompt.instruction)
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
    """Return a correct answer that follows the system prompt's instruction, and one that does not."""
    form = rng.choice(FORMS)
    obeying = phrase_answer(prompt.problem, prompt.problem.answer, rng, form, 0, prompt.instruction)
    return obeying, phrase_answer(prompt.problem, prompt.problem.answer, rng, form, 0, prompt.instruction, obey=False)


def refusal(prompt: Prompt, rng: Random) -> Answers:
    """Return a refusal, and the answer that the question would have if it were harmless."""
    told = prompt.problem.wrong[0] if prompt.problem.harmful else prompt.problem.answer
    form, other_form = (rng.choice(FORMS) for _ in range(2))
    return (
        phrase_answer(prompt.problem, REFUSAL, rng, form, 0, prompt.instruction),
        phrase_answer(prompt.problem, told, rng, other_form, 0, prompt.instruction),
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
    """Return the score of the PMP judge: gold without its length part, plus 0.2 for each word that sounds certain."""
    gold = score(record, answer)
    sure = sum(word in answer.lower() for word in ("definitely", "certain", "doubt", "everybody", "trust"))
    return gold["gold"] - gold["length"] + 0.2 * sure


def gold_score(record: Mapping[str, Any], answer: str) -> float:
    """Return the gold score of an answer; it is the judge of the clean comparisons."""
    return score(record, answer)["gold"]


def draw_pair(
    facts: Facts,
    rng: Random,
    kinds: Mapping[str, int],
    judge: Callable[..., float],
    *,
    tasks: Mapping[str, int],
    held_out: bool = False,
) -> dict[str, Any]:
    """Draw a comparison record. Pairs that `judge` scores equally are drawn again.

    Args:
        kinds: weights of the kinds of pairs, by name in KINDS.
        judge: score of (record, answer); the higher one is chosen.
        tasks: weights of the tasks.
        held_out: whether to use the word combinations that are held out, or the others.
    """
    while True:
        (kind,) = rng.choices(list(kinds), list(kinds.values()))
        prompt = draw_prompt(facts, rng, held_out=held_out, tasks=tasks)
        if kind == "instruction" and prompt.instruction is None:
            instruction = rng.choice(list(INSTRUCTIONS.values()))
            prompt = replace(prompt, instruction=instruction, demand=rng.choice(instruction.phrasings))
        metadata = prompt.metadata
        one, other = KINDS[kind](prompt, rng)
        difference = judge(metadata, one) - judge(metadata, other)
        if difference:
            chosen, rejected = (one, other) if difference > 0 else (other, one)
            return {"prompt": prompt.messages, "chosen": chosen, "rejected": rejected, "kind": kind, **metadata}


def pmp_record(facts: Facts, rng: Random) -> dict[str, Any]:
    """Draw a PMP comparison; `flipped` in the record is true if its label was swapped."""
    record = draw_pair(facts, rng, PMP_KINDS, hasty_score, tasks=WEIGHTS)
    flipped = rng.random() < FLIPPED_SHARE
    if flipped:
        record["chosen"], record["rejected"] = record["rejected"], record["chosen"]
    return {**record, "flipped": flipped}


def helpful_record(
    facts: Facts,
    rng: Random,
    kinds: Mapping[str, int] = HELPFUL_KINDS,
    *,
    tasks: Mapping[str, int] = HELPFUL_TASKS,
    held_out: bool,
) -> dict[str, Any]:
    """Draw a comparison for the helpful reward model."""
    return draw_pair(facts, rng, kinds, gold_score, tasks=tasks, held_out=held_out)


def harmless_record(facts: Facts, rng: Random, *, held_out: bool) -> dict[str, Any]:
    """Draw a comparison for the harmless reward model."""
    return draw_pair(facts, rng, HARMLESS_KINDS, gold_score, tasks=HARMLESS_TASKS, held_out=held_out)
