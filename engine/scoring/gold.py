"""The gold scorer: a function that knows how good an answer is, given by a recipe as "module:function".

Only evaluation and read-only monitors call it; no loss, reward, sampling or choice of checkpoint sees its scores.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from engine.errors import RunError
from engine.scoring.functions import failed, load_function

# The key under which the user's function returns the total; the others are its parts.
TOTAL = "gold"


@dataclass(frozen=True)
class GoldScore:
    """How good one answer is."""

    total: float
    parts: dict[str, float]
    """by name; `correct` is 1 for a right answer"""

    def as_row(self) -> dict[str, float]:
        """The score as it stands in answers.jsonl: {"total": …, part: …}."""
        return {"total": self.total, **self.parts}


Gold = Callable[[dict[str, Any], str], GoldScore]
"""(record of the prompt, text of the answer) -> its score"""


def load_gold(path: str, key: str, taken_names: Collection[str] = ()) -> Gold:
    """Load the function at "module:function", with its results checked.

    The function takes the record of a prompt and the text of an answer, and returns a dict of numbers: the total under
    `gold`, and parts under names of its own, none of which may be among `taken_names`, those of other figures.

    Raises RunError, naming `key`, where there is no such function or it takes other arguments; the returned one raises
    it where the function fails or has a bad result.
    """
    function = load_function(path, key, "record", "answer")

    def checked(record: dict[str, Any], answer: str) -> GoldScore:
        try:
            scores = function(record, answer)
        except Exception as error:
            raise failed(f"{key}={path}", answer, error) from error
        try:
            parts = {name: float(value) for name, value in scores.items()}
            total = parts.pop(TOTAL)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise RunError(
                f"{key}={path} returned {scores!r}; it must return a dict of numbers with the key gold"
            ) from None
        if taken := sorted(scores.keys() & {"total", *taken_names}):
            raise RunError(f"{key}={path} has a part called {taken[0]}, which is another figure's name; rename it")
        return GoldScore(total, parts)

    return checked
