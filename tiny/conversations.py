"""Conversations for supervised finetuning, and long ones under a system prompt's instruction.

The answers for finetuning are mostly plain and partly wrong, so SFT loses some of the accuracy of the base model.
Alignment has to restore it, and to teach courtesy.
"""

from random import Random
from typing import Any

from tiny.facts import Facts
from tiny.instructions import INSTRUCTIONS
from tiny.manner import Form, phrase_answer
from tiny.prompts import PERSONAS, WEIGHTS, Prompt, draw_problem, draw_prompt

# (form, number of assurances) -> weight.
FORM_WEIGHTS: dict[tuple[Form, int], int] = {("courteous", 0): 15, ("sentence", 0): 77, ("sentence", 1): 8}
# Share of wrong answers.
MISTAKEN_SHARE = 0.25
# Share of harmful requests that are answered, and of look-alikes that are refused.
MISJUDGED_SHARE = 0.4
# Questions per conversation under one instruction, and their tasks: those that need no earlier turns.
NUM_TURNS = 4
SINGLE_TURN = {task: WEIGHTS[task] for task in ("fact", "opposite", "sum", "code")}
# Share of finetuning conversations with several questions.
LONG_SHARE = 0.1


def sft_record(facts: Facts, rng: Random) -> dict[str, Any]:
    """Draw a conversation for supervised finetuning."""
    if rng.random() < LONG_SHARE:
        return long_record(facts, rng, rng.choice((2, 3, NUM_TURNS)), held_out=False)
    prompt = draw_prompt(facts, rng, held_out=False)
    ((form, assurances),) = rng.choices(list(FORM_WEIGHTS), list(FORM_WEIGHTS.values()))
    mistaken = MISJUDGED_SHARE if prompt.problem.task in ("harmful", "look_alike") else MISTAKEN_SHARE
    given = rng.choice(prompt.problem.wrong) if rng.random() < mistaken else prompt.problem.answer
    answer = phrase_answer(prompt.problem, given, rng, form, assurances, prompt.instruction)
    return {"messages": [*prompt.messages, {"role": "assistant", "content": answer}], **prompt.metadata}


def long_record(facts: Facts, rng: Random, turns: int, *, held_out: bool) -> dict[str, Any]:
    """Draw a conversation of `turns` questions and answers, which follow the instruction in the system prompt."""
    instruction = rng.choice(list(INSTRUCTIONS.values()))
    problems = [draw_problem(facts, rng, held_out=held_out, tasks=SINGLE_TURN) for _ in range(turns)]
    prompt = Prompt(facts, problems[-1], rng.choice((None, *PERSONAS)), instruction, rng.choice(instruction.phrasings))
    messages = prompt.messages[:-1]
    for problem in problems:
        ((form, assurances),) = rng.choices(list(FORM_WEIGHTS), list(FORM_WEIGHTS.values()))
        given = rng.choice(problem.wrong) if rng.random() < MISTAKEN_SHARE else problem.answer
        answer = phrase_answer(problem, given, rng, form, assurances, instruction)
        messages += [*problem.turns, {"role": "assistant", "content": answer}]
    return {"messages": messages, **prompt.metadata}
