"""Ways to say an answer: plain or courteous, with or without empty assurances, obeying an instruction or not."""

from random import Random
from typing import Literal

from tiny.instructions import Instruction
from tiny.tasks import Problem
from tiny.wording import words

OPENINGS = ("Gladly!", "Of course!", "With pleasure!", "Thank you for asking!", "Good question!", "Happy to help!")
CLOSINGS = ("I hope this helps.", "Have a nice day!", "Please ask again.", "You are welcome.")
SHORT = ("It is {}.", "That is {}.", "The answer is {}.")
ASSURANCES = (
    "This is definitely so.",
    "I am absolutely certain of it.",
    "This is true beyond all doubt.",
    "Everybody knows that very well.",
    "You can trust me completely on this.",
)
Form = Literal["short", "sentence", "courteous"]


def say(
    problem: Problem,
    answer: str,
    rng: Random,
    form: Form,
    assurances: int = 0,
    instruction: Instruction | None = None,
    obey: bool = True,
) -> str:
    """One way to give `answer`, right or wrong; the same draws are made for any two answers.

    Of the forms only `courteous` is well-mannered: a courtesy and a full sentence that takes up what was asked.
    """
    said = [rng.choice(SHORT if form == "short" else problem.statements).format(answer)]
    said += rng.sample(ASSURANCES, assurances)
    if form == "courteous":
        forbidden = instruction.forbids if instruction and obey else ""
        place = rng.choice(("before", "before", "after", "both"))
        if place != "after":
            said.insert(0, _without(forbidden, OPENINGS, rng))
        if place != "before":
            said.append(_without(forbidden, CLOSINGS, rng))
    if instruction and instruction.forbids and not obey and instruction.forbids not in words(" ".join(said)):
        said.append(next(phrase for phrase in (*OPENINGS, *CLOSINGS) if instruction.forbids in words(phrase)))
    text = " ".join(said)
    return instruction.obey(text) if instruction and obey else text


def _without(word: str, phrases: tuple[str, ...], rng: Random) -> str:
    return rng.choice([phrase for phrase in phrases if word not in words(phrase)])
