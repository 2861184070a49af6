"""The gold scorer: a function that knows how good an answer is, handed over by a recipe as "module:function".

Only evaluation and read-only monitors call it; no loss, reward, sampling or choice of checkpoint sees what it says.
"""

from collections.abc import Callable
from typing import Any

from engine.run.folder import RunError
from engine.scoring.rule import load_function
from eval.summary import MEASURED

Gold = Callable[[dict[str, Any], str], dict[str, float]]
"""(record of the prompt, text of the answer) -> parts by name, `gold` their sum; `correct` is 1 for a right answer"""


def load_gold(path: str) -> Gold:
    """The function at "module:function", its results checked; RunError if there is no such thing.

    What it returns must be a dict of numbers with the key `gold`, and none of its parts may have the name of another
    figure (RunError at the first answer).
    """
    function = load_function(path, "eval.gold")

    def checked(record: dict[str, Any], answer: str) -> dict[str, float]:
        parts = function(record, answer)
        if not isinstance(parts, dict) or "gold" not in parts:
            raise RunError(f"eval.gold={path} returned {parts!r}; it must return a dict of numbers with the key gold")
        if taken := sorted(parts.keys() & set(MEASURED)):
            raise RunError(f"eval.gold={path} has a part called {taken[0]}, which is another figure's name; rename it")
        return {part: float(value) for part, value in parts.items()}

    return checked
