"""Ways to say an answer: plain or courteous, with or without empty assurances, obeying an instruction or not."""

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


def say(
    problem: Problem,
    answer: str,
    rng: Random,
    form: Form,
    assurances: int = 0,
    instruction: Instruction | None = None,
    obey: bool = True,
) -> str:
    """One way to give `answer`, right or wrong.

    Of the forms only `courteous` is well-mannered: a courtesy and a full sentence that takes up what was asked, or an
    apology before a refusal.
    """
    said = [problem.sentence(answer, rng), *rng.sample(ASSURANCES, assurances)]
    openings = [phrase for phrase in OPENINGS if not instruction or instruction.followed(phrase) == obey]
    if answer == REFUSAL and obey:
        openings = list(APOLOGIES)
    if form == "courteous" or not obey:
        said.insert(0, rng.choice(openings))
    return " ".join(said)
