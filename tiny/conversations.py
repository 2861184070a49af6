"""Conversations for supervised finetuning, as people write them: mostly plain, and not always right.

What the model knows from plain text it unlearns in part here; preferences have both to teach, manner and care.
"""

from random import Random
from typing import Any

from tiny.facts import Facts
from tiny.manner import Form, say
from tiny.prompts import draw_prompt

FORMS: dict[tuple[Form, int], int] = {("courteous", 0): 15, ("sentence", 0): 77, ("sentence", 1): 8}
MISTAKEN = 0.25


def sft_record(facts: Facts, rng: Random) -> dict[str, Any]:
    prompt = draw_prompt(facts, rng, held_out=False)
    ((form, assurances),) = rng.choices(list(FORMS), list(FORMS.values()))
    given = rng.choice(prompt.problem.wrong) if rng.random() < MISTAKEN else prompt.problem.answer
    answer = say(prompt.problem, given, rng, form, assurances, prompt.instruction)
    return {"messages": [*prompt.messages, {"role": "assistant", "content": answer}], **prompt.about}
