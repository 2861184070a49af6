"""The facts of the tiny world, drawn from the seed: homes, jobs and pets of people, flags of towns.

The facts are a table (relation, entity) -> value. A relation has the sentences that state its facts and the questions
that ask for them.
"""

from dataclasses import dataclass
from random import Random

from tiny.words import ANIMALS, COLOURS, JOBS, PEOPLE, TOWNS


@dataclass(frozen=True)
class Relation:
    """A property of every entity of a kind. In its texts `{x}` stands for the entity and `{}` for the value."""

    name: str
    entities: tuple[str, ...]
    values: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]

    def states(self, entity: str) -> tuple[str, ...]:
        """Return the statements about `entity`, with `{}` for the value."""
        return tuple(statement.replace("{x}", entity) for statement in self.statements)


RELATIONS = (
    Relation(
        "home",
        PEOPLE,
        TOWNS,
        ("{x} lives in {}.", "The home of {x} is {}."),
        (
            "Where does {x} live?",
            "In which town does {x} live?",
            "Which town is the home of {x}?",
            "Tell me where {x} lives.",
            "Do you know where {x} lives?",
            "What is the home of {x}?",
        ),
    ),
    Relation(
        "job",
        PEOPLE,
        JOBS,
        ("{x} works as a {}.", "The job of {x} is {}."),
        (
            "What does {x} work as?",
            "What is the job of {x}?",
            "Which job does {x} have?",
            "Tell me the job of {x}.",
            "Do you know what {x} works as?",
            "As what does {x} work?",
        ),
    ),
    Relation(
        "pet",
        PEOPLE,
        ANIMALS,
        ("{x} keeps a {}.", "The pet of {x} is a {}."),
        (
            "Which animal does {x} keep?",
            "What is the pet of {x}?",
            "Which pet does {x} have?",
            "Tell me which pet {x} keeps.",
            "Do you know the pet of {x}?",
            "What animal does {x} have at home?",
        ),
    ),
    Relation(
        "flag",
        TOWNS,
        COLOURS,
        ("The flag of {x} is {}.", "{x} has a flag that is {}."),
        (
            "What colour is the flag of {x}?",
            "Which colour does the flag of {x} have?",
            "Tell me the colour of the flag of {x}.",
            "Do you know the colour of the flag of {x}?",
            "What does the flag of {x} look like?",
            "Which flag does {x} have?",
        ),
    ),
)


class Facts:
    """The facts of the world of one seed."""

    def __init__(self, seed: int):
        rng = Random(f"{seed}/facts")
        self.seed = seed
        self.value = {
            (relation.name, entity): rng.choice(relation.values)
            for relation in RELATIONS
            for entity in relation.entities
        }

    def statement(self, relation: Relation, entity: str, rng: Random) -> str:
        """Draw a true statement of the relation about `entity`."""
        return rng.choice(relation.states(entity)).format(self.value[relation.name, entity])
