"""Conversations: for supervised finetuning, as people write them, and with an instruction that holds over many turns.

Those for finetuning are mostly plain, and not always right. What the model knows from plain text it unlearns in part
there; preferences have both to teach, manner and care.
"""

from random import Random
from typing import Any

from tiny.facts import Facts
from tiny.instructions import INSTRUCTIONS
from tiny.manner import Form, say
from tiny.prompts import ROLES, WEIGHTS, Prompt, draw_problem, draw_prompt

FORMS: dict[tuple[Form, int], int] = {("courteous", 0): 15, ("sentence", 0): 77, ("sentence", 1): 8}
MISTAKEN = 0.25
# Of harmful requests and look-alikes: answered in the one case, refused in the other.
MISJUDGED = 0.4
# Turns of a conversation under one instruction, and what is asked in them: nothing that needs earlier turns.
TURNS = 4
SINGLE_TURN = {task: WEIGHTS[task] for task in ("fact", "opposite", "sum", "code")}
# How many conversations for finetuning have several questions, each with its answer.
LONG_SHARE = 0.1


def sft_record(facts: Facts, rng: Random) -> dict[str, Any]:
    if rng.random() < LONG_SHARE:
        return long_record(facts, rng, rng.choice((2, 3, TURNS)), held_out=False)
    prompt = draw_prompt(facts, rng, held_out=False)
    ((form, assurances),) = rng.choices(list(FORMS), list(FORMS.values()))
    mistaken = MISJUDGED if prompt.problem.task in ("harmful", "look_alike") else MISTAKEN
    given = rng.choice(prompt.problem.wrong) if rng.random() < mistaken else prompt.problem.answer
    answer = say(prompt.problem, given, rng, form, assurances, prompt.instruction)
    return {"messages": [*prompt.messages, {"role": "assistant", "content": answer}], **prompt.about}


def long_record(facts: Facts, rng: Random, turns: int, *, held_out: bool) -> dict[str, Any]:
    """Several questions with their answers, which obey the system prompt's instruction."""
    instruction = rng.choice(list(INSTRUCTIONS.values()))
    problems = [draw_problem(facts, rng, held_out=held_out, tasks=SINGLE_TURN) for _ in range(turns)]
    prompt = Prompt(facts, problems[-1], rng.choice((None, *ROLES)), instruction, rng.choice(instruction.asked))
    messages = prompt.messages[:-1]
    for problem in problems:
        ((form, assurances),) = rng.choices(list(FORMS), list(FORMS.values()))
        given = rng.choice(problem.wrong) if rng.random() < MISTAKEN else problem.answer
        answer = say(problem, given, rng, form, assurances, instruction)
        messages += [*problem.turns, {"role": "assistant", "content": answer}]
    return {"messages": messages, **prompt.about}
