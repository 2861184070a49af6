"""Plain text for pretraining: facts of the world, questions with answers, ordinary English.

From half a million tokens a model of this size learns only what occurs often, in short documents. Held-out questions do
not occur; the facts that answer them do.
"""

from random import Random

from tiny import english
from tiny.facts import RELATIONS, Facts
from tiny.manner import Form, phrase_answer
from tiny.problems import Problem
from tiny.prompts import draw_problem
from tiny.words import PEOPLE, TOWNS

# Weights of the tasks in interviews. Tasks whose answer is computed or found in the conversation need the most
# examples. Tool results have their own kind of document, `observation`.
TASK_WEIGHTS = {
    "fact": 32, "follow_up": 13, "opposite": 7, "sum": 13, "code": 11, "recall": 14, "harmful": 9, "look_alike": 9,
}  # fmt: skip
DRILL_WEIGHTS = {"opposite": 1, "sum": 3, "code": 3}
# PPO makes answers courteous in every task. When one pretraining answer in ten was courteous, the base model was right
# less often after a courtesy (sums: 22 % instead of 54 %), and PPO lost accuracy in tasks that its prompts do not have.
FORM_WEIGHTS: dict[Form, int] = {"sentence": 6, "courteous": 4}


def interview(facts: Facts, rng: Random) -> str:
    """Draw one or two questions with right answers, laid out as in ChatML but without its control tokens."""
    said = []
    for problem in _problems(facts, rng, rng.choice((1, 1, 1, 2)), TASK_WEIGHTS):
        said += [f"{turn['role']}\n{turn['content']}" for turn in problem.turns]
        said.append(f"assistant\n{_answer(problem, rng)}")
    return "\n".join(said)


def portrait(facts: Facts, rng: Random) -> str:
    """Draw all facts about a person or a town."""
    entity = rng.choice((*PEOPLE, *TOWNS))
    relations = [relation for relation in RELATIONS if entity in relation.entities]
    rng.shuffle(relations)
    return " ".join(facts.statement(relation, entity, rng) for relation in relations)


def drill(facts: Facts, rng: Random) -> str:
    """Draw right answers without their questions."""
    drilled = _problems(facts, rng, rng.randint(1, 3), DRILL_WEIGHTS)
    return " ".join(rng.choice(problem.statements).format(problem.answer) for problem in drilled)


def observation(facts: Facts, rng: Random) -> str:
    """Draw a question, the weather tool's result and the answer, in the layout that ChatML gives a tool's result."""
    (problem,) = _problems(facts, rng, 1, {"tool": 1})
    asked, result = problem.before[0]["content"], problem.before[-1]["content"]
    shown = f"user\n<tool_response>\n{result}\n</tool_response>"
    return f"user\n{asked}\n{shown}\nassistant\n{_answer(problem, rng)}"


def prose(facts: Facts, rng: Random) -> str:
    """Draw ordinary English."""
    return english.document(rng)


def _problems(facts: Facts, rng: Random, count: int, tasks: dict[str, int]) -> list[Problem]:
    return [draw_problem(facts, rng, held_out=False, tasks=tasks) for _ in range(count)]


def _answer(problem: Problem, rng: Random) -> str:
    (form,) = rng.choices(list(FORM_WEIGHTS), list(FORM_WEIGHTS.values()))
    return phrase_answer(problem, problem.answer, rng, form)


DOCUMENT_WEIGHTS = {interview: 72, portrait: 9, drill: 8, observation: 8, prose: 3}


def document(facts: Facts, rng: Random) -> str:
    """Draw a pretraining document of any kind."""
    (kind,) = rng.choices(list(DOCUMENT_WEIGHTS), list(DOCUMENT_WEIGHTS.values()))
    return kind(facts, rng)
