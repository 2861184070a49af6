"""The gold scorer: a user's function that knows how good an answer is; a recipe names it as "module:function".

Only evaluation and read-only monitors call it; no loss, reward, sampling or choice of checkpoint uses its scores.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from engine.errors import RunError
from engine.scoring.functions import function_error, load_function

# The key of the total in the dict that the user's function returns; the other keys are its parts.
TOTAL_KEY = "gold"


@dataclass(frozen=True)
class GoldScore:
    """The gold score of one answer."""

    total: float
    parts: dict[str, float]
    """scores by name; `correct` is 1 for a right answer"""

    def as_row(self) -> dict[str, float]:
        """Return the score as in answers.jsonl: {"total": …, part: …}."""
        return {"total": self.total, **self.parts}


Gold = Callable[[dict[str, Any], str], GoldScore]
"""(record of the prompt, text of the answer) -> its score"""


def load_gold(path: str, key: str, taken_names: Collection[str] = ()) -> Gold:
    """Load the function at "module:function"; the returned function checks its results.

    The user's function takes the record of a prompt and the text of an answer. It returns a dict of numbers: the total
    under `gold`, and parts under other names, but not under `taken_names`, those of other figures.

    Raises RunError, naming the recipe key `key`, if there is no such function or it takes other arguments. The returned
    function raises RunError if the user's function fails or its result is not such a dict.
    """
    function = load_function(path, key, "record", "answer")

    def checked(record: dict[str, Any], answer: str) -> GoldScore:
        try:
            scores = function(record, answer)
        except Exception as error:
            raise function_error(f"{key}={path}", answer, error) from error
        try:
            parts = {name: float(value) for name, value in scores.items()}
            total = parts.pop(TOTAL_KEY)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise RunError(
                f"{key}={path} returned {scores!r}; it must return a dict of numbers with the key gold"
            ) from None
        if taken := sorted(scores.keys() & {"total", *taken_names}):
            raise RunError(f"{key}={path} has a part called {taken[0]}, which is another figure's name; rename it")
        return GoldScore(total, parts)

    return checked
