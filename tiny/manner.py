"""Phrase an answer: plain or courteous, with or without assurances, following an instruction or not."""

from random import Random
from typing import Literal

from tiny.instructions import Instruction
from tiny.problems import APOLOGIES, REFUSAL, Problem

OPENINGS = ("Gladly!", "Of course!", "With pleasure!", "Thank you for asking!", "Good question!", "Happy to help!")
ASSURANCES = (
    "This is definitely so.",
    "I am absolutely certain of it.",
    "This is true beyond all doubt.",
    "Everybody knows that very well.",
    "You can trust me completely on this.",
)
Form = Literal["sentence", "courteous"]


def phrase_answer(
    problem: Problem,
    answer: str,
    rng: Random,
    form: Form,
    assurances: int = 0,
    instruction: Instruction | None = None,
    obey: bool = True,
) -> str:
    """Draw a phrasing of `answer`, which may be right or wrong.

    Args:
        answer: the answer, or REFUSAL.
        form: "sentence" is a full sentence; "courteous" adds a courtesy, or an apology if the answer is a refusal.
        assurances: number of assurances to add.
        instruction: the instruction of the system prompt, if any.
        obey: whether to follow the instruction. If not, a courtesy with the forbidden word is added in any form.
    """
    said = [problem.sentence(answer, rng), *rng.sample(ASSURANCES, assurances)]
    openings = [phrase for phrase in OPENINGS if not instruction or instruction.followed(phrase) == obey]
    if answer == REFUSAL and obey:
        openings = list(APOLOGIES)
    if form == "courteous" or not obey:
        said.insert(0, rng.choice(openings))
    return " ".join(said)
