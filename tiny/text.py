"""Plain text about the world, for pretraining: what is so, questions and answers, ordinary English.

A model of this size learns from half a million tokens what it meets often, densely and in short documents. Questions
that are held out do not occur; the facts that answer them do.
"""

from random import Random

from tiny import english
from tiny.facts import RELATIONS, Facts
from tiny.manner import Form, say
from tiny.problems import Problem
from tiny.prompts import draw_problem
from tiny.words import PEOPLE, TOWNS

# How often each task is asked here. What has to be worked out or read off takes a small model the most examples; a
# tool's result is read out of its own document, `observation`.
ASKED = {
    "fact": 32, "follow_up": 13, "opposite": 7, "sum": 13, "code": 11, "recall": 14, "harmful": 9, "look_alike": 9,
}  # fmt: skip
DRILLED = {"opposite": 1, "sum": 3, "code": 3}
# PPO makes answers courteous in every task. Where the base model had met one courteous answer in ten, it was right less
# often after a courtesy (sums: 22 % instead of 54 %), and PPO lost what it had never been asked.
FORMS: dict[Form, int] = {"sentence": 6, "courteous": 4}


def interview(facts: Facts, rng: Random) -> str:
    """A question or two and their right answers, laid out as they will be in ChatML, whose tokens no text holds."""
    said = []
    for problem in _problems(facts, rng, rng.choice((1, 1, 1, 2)), ASKED):
        said += [f"{turn['role']}\n{turn['content']}" for turn in problem.turns]
        said.append(f"assistant\n{_said(problem, rng)}")
    return "\n".join(said)


def portrait(facts: Facts, rng: Random) -> str:
    """All that is known of somebody or of a town."""
    entity = rng.choice((*PEOPLE, *TOWNS))
    relations = [relation for relation in RELATIONS if entity in relation.entities]
    rng.shuffle(relations)
    return " ".join(facts.statement(relation, entity, rng) for relation in relations)


def drill(facts: Facts, rng: Random) -> str:
    """Right sentences without a question."""
    drilled = _problems(facts, rng, rng.randint(1, 3), DRILLED)
    return " ".join(rng.choice(problem.statements).format(problem.answer) for problem in drilled)


def observation(facts: Facts, rng: Random) -> str:
    """A question, what the weather station writes, and the answer, laid out as a tool's result will be in ChatML."""
    (problem,) = _problems(facts, rng, 1, {"tool": 1})
    asked, result = problem.before[0]["content"], problem.before[-1]["content"]
    shown = f"user\n<tool_response>\n{result}\n</tool_response>"
    return f"user\n{asked}\n{shown}\nassistant\n{_said(problem, rng)}"


def prose(facts: Facts, rng: Random) -> str:
    return english.document(rng)


def _problems(facts: Facts, rng: Random, count: int, tasks: dict[str, int]) -> list[Problem]:
    return [draw_problem(facts, rng, held_out=False, tasks=tasks) for _ in range(count)]


def _said(problem: Problem, rng: Random) -> str:
    (form,) = rng.choices(list(FORMS), list(FORMS.values()))
    return say(problem, problem.answer, rng, form)


DOCUMENTS = {interview: 72, portrait: 9, drill: 8, observation: 8, prose: 3}


def document(facts: Facts, rng: Random) -> str:
    (kind,) = rng.choices(list(DOCUMENTS), list(DOCUMENTS.values()))
    return kind(facts, rng)
