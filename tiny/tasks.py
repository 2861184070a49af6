"""The tasks of the tiny world, except the two about harm.

Each task draws problems: a question, possibly after earlier turns, its right answer, and plausible wrong answers. The
answer is known from the world (fact, follow_up, opposite), found in the conversation (recall, tool) or computed (sum,
code).
"""

import json
from random import Random

from tiny.facts import RELATIONS, Facts
from tiny.problems import Problem, about_fact, all_except, assistant_message, is_held_out, user_message
from tiny.words import ANIMALS, COLOURS, OPPOSITES, PET_NAMES, THINGS, TOWNS, WEATHERS

# Known from the world


def fact(facts: Facts, rng: Random) -> Problem:
    relation = rng.choice(RELATIONS)
    entity = rng.choice(relation.entities)
    return about_fact(facts, relation, entity, rng.choice(relation.questions).replace("{x}", entity))


def follow_up(facts: Facts, rng: Random) -> Problem:
    """Draw a question about a fact with its answer, then the elliptical question about another entity ("And Otto?")."""
    while True:
        relation = rng.choice(RELATIONS)
        first, entity = rng.sample(relation.entities, 2)
        asked = about_fact(facts, relation, first, rng.choice(relation.questions).replace("{x}", first))
        # The first question is answered in the conversation; held-out questions must not be answered anywhere.
        if not is_held_out(asked, facts.seed):
            break
    before = (*asked.turns, assistant_message(facts.statement(relation, first, rng)))
    question = rng.choice(("And {x}?", "What about {x}?", "And what about {x}?", "Now the same for {x}."))
    return about_fact(facts, relation, entity, question.replace("{x}", entity), before, "follow_up")


def opposite(facts: Facts, rng: Random) -> Problem:
    word, answer = rng.sample(rng.choice(OPPOSITES), 2)
    question = rng.choice(
        (
            f"What is the opposite of {word}?",
            f"Tell me the opposite of {word}.",
            f"Which word is the opposite of {word}?",
            f"What do we call a thing that is not {word}?",
            f"The opposite of {word}?",
            f"What is not {word} but the other way round?",
            f"Which word means the opposite of {word}?",
            f"Give me the opposite of {word}.",
            f"Do you know the opposite of {word}?",
            f"If it is not {word}, what is it?",
        )
    )
    rest = all_except(tuple(word for pair in OPPOSITES for word in pair), word, answer)
    return Problem(
        "opposite",
        question,
        answer,
        rest,
        (f"The opposite of {word} is {{}}.", f"The word {word} has the opposite {{}}."),
        (word,),
        rest,
    )


# Found in the conversation


def recall(facts: Facts, rng: Random) -> Problem:
    """Draw a question about something the user stated in this turn or an earlier one, sometimes with a distractor."""
    first, second, question, answer, other, statements, subject, candidates = rng.choice((_pets, _things, _prices))(rng)
    told = " ".join(rng.sample((first, second), 2) if rng.random() < 0.3 else (first,))
    if rng.random() < 2 / 3:
        return Problem("recall", f"{told} {question}", answer, (other,), statements, subject, candidates)
    reply = rng.choice(("I will remember that.", "I see.", "That is noted."))
    before = (user_message(told), assistant_message(reply))
    return Problem("recall", question, answer, (other,), statements, subject, candidates, before=before)


# Two statements, the second a distractor; the question, its answer, a wrong answer; `statements`, `subject` and
# `candidates` of Problem.
Recalled = tuple[str, str, str, str, str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]


def _pets(rng: Random) -> Recalled:
    pet, pet2 = rng.sample(ANIMALS, 2)
    name, name2 = rng.sample(PET_NAMES, 2)
    question = rng.choice(
        (f"What is my {pet} called?", f"What is the name of my {pet}?", f"Which name does my {pet} have?")
    )
    statements = (f"Your {pet} is {{}}.", f"The name of your {pet} is {{}}.")
    return (
        f"My {pet} is {name}.", f"My {pet2} is {name2}.",
        question, name, name2, statements, (pet,), all_except(PET_NAMES, name),
    )  # fmt: skip


def _things(rng: Random) -> Recalled:
    thing, thing2 = rng.sample(THINGS, 2)
    colour, colour2 = rng.sample(COLOURS, 2)
    question = rng.choice((f"What colour is the {thing}?", f"Which colour does the {thing} have?"))
    statements = (f"The {thing} is {{}}.", f"The colour of the {thing} is {{}}.")
    return (
        f"The {thing} is {colour}.", f"The {thing2} is {colour2}.",
        question, colour, colour2, statements, (thing,), all_except(COLOURS, colour),
    )  # fmt: skip


def _prices(rng: Random) -> Recalled:
    thing, thing2 = rng.sample(THINGS, 2)
    price, price2 = rng.sample("23456789", 2)
    question = rng.choice(
        (f"How much is the {thing}?", f"What does the {thing} cost?", f"What is the price of the {thing}?")
    )
    statements = (f"The {thing} costs {{}}.", f"The price of the {thing} is {{}}.")
    return (
        f"The {thing} costs {price} coins.", f"The {thing2} costs {price2} coins.",
        question, price, price2, statements, (thing,), (),
    )  # fmt: skip


TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a town.",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        },
    },
)


def tool(facts: Facts, rng: Random) -> Problem:
    """Draw a conversation with a tool call and its result, from which the answer is read."""
    town, weather, degrees = rng.choice(TOWNS), rng.choice(WEATHERS), str(rng.randint(2, 29))
    result = json.dumps({"town": town, "weather": weather, "degrees": int(degrees)})
    if rng.random() < 0.5:
        question = rng.choice(("What is the weather like in {x}?", "How is the weather in {x}?"))
        answer, wrong = weather, all_except(WEATHERS, weather)
        statements, candidates = ("The weather in {x} is {}.", "In {x} it is {}."), wrong
    else:
        question = rng.choice(("How warm is it in {x}?", "How many degrees does {x} have?"))
        answer, candidates = degrees, ()
        wrong = tuple(str(int(degrees) + off) for off in (-2, -1, 1, 2))
        statements = ("The degrees in {x} are {}.", "The number of degrees in {x} is {}.")
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"town": town}}}
    before = (
        user_message(question.replace("{x}", town)),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "get_weather", "content": result},
    )
    stated = tuple(statement.replace("{x}", town) for statement in statements)
    return Problem("tool", "", answer, wrong, stated, (town,), candidates, before=before, tools=TOOLS)


# Computed


def _near(number: int) -> tuple[str, ...]:
    return tuple(str(number + off) for off in (-2, -1, 1, 2) if number + off >= 0)


def sum_(facts: Facts, rng: Random) -> Problem:
    a = rng.randint(1, 8)
    b = rng.randint(1, 9 - a)
    question = rng.choice(
        (
            f"What is {a} + {b}?",
            f"How much is {a} plus {b}?",
            f"Add {a} and {b}.",
            f"What do you get if you add {a} and {b}?",
            f"Work out {a} + {b}.",
        )
    )
    statements = (f"{a} + {b} is {{}}.", f"{a} plus {b} is {{}}.", f"The sum of {a} and {b} is {{}}.")
    cut = (f"{a} + {b}", f"{a} plus {b}", f"{a} and {b}")
    return Problem("sum", question, str(a + b), _near(a + b), statements, (str(a), str(b)), cut=cut)


def code(facts: Facts, rng: Random) -> Problem:
    a, b = rng.sample(range(1, 10), 2)
    while a + b > 9:
        a, b = rng.sample(range(1, 10), 2)
    call, answer = rng.choice(((f"{a} + {b}", a + b), (f"max({a}, {b})", max(a, b)), (f"min({a}, {b})", min(a, b))))
    program = f"print({call})"
    question = rng.choice(
        (f"What does {program} print?", f"What is the output of {program}?", f"I run {program}. What do I see?")
    )
    wrong = _near(answer) if "+" in call else (str(a + b - answer), *_near(answer)[:2])
    statements = (f"{program} prints {{}}.", f"The output of {program} is {{}}.")
    return Problem("code", question, str(answer), wrong, statements, ("print", str(a), str(b)), cut=(program,))
