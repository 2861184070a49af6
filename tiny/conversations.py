"""Conversations for supervised finetuning: all answers right, most of them plain."""

from random import Random
from typing import Any

from tiny.facts import Facts
from tiny.manner import Form, say
from tiny.prompts import draw_prompt

# Of all conversations one in three is well-mannered, so that there is something left to learn from preferences.
FORMS: dict[tuple[Form, int], int] = {("courteous", 0): 33, ("sentence", 0): 35, ("short", 0): 24, ("sentence", 1): 8}


def sft_record(facts: Facts, rng: Random) -> dict[str, Any]:
    prompt = draw_prompt(facts, rng, held_out=False)
    ((form, assurances),) = rng.choices(list(FORMS), list(FORMS.values()))
    answer = say(prompt.problem, prompt.problem.answer, rng, form, assurances, prompt.instruction)
    return {"messages": [*prompt.messages, {"role": "assistant", "content": answer}], **prompt.about}
