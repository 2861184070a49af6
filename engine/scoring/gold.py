"""The gold scorer: a function that knows how good an answer is, handed over by a recipe as "module:function".

Only evaluation and read-only monitors call it; no loss, reward, sampling or choice of checkpoint sees what it says.
"""

from collections.abc import Callable, Collection
from typing import Any

from engine.errors import RunError
from engine.scoring.rule import load_function

Gold = Callable[[dict[str, Any], str], dict[str, float]]
"""(record of the prompt, text of the answer) -> parts by name, `gold` their sum; `correct` is 1 for a right answer"""


def load_gold(path: str, key: str, taken_names: Collection[str] = ()) -> Gold:
    """The function at "module:function", its results checked; RunError, naming `key`, if there is no such thing.

    What it returns must be a dict of numbers with the key `gold`, and none of its parts may have one of `taken_names`,
    those of other figures (RunError at the first answer).
    """
    function = load_function(path, key)

    def checked(record: dict[str, Any], answer: str) -> dict[str, float]:
        parts = function(record, answer)
        if not isinstance(parts, dict) or "gold" not in parts:
            raise RunError(f"{key}={path} returned {parts!r}; it must return a dict of numbers with the key gold")
        if taken := sorted(parts.keys() & set(taken_names)):
            raise RunError(f"{key}={path} has a part called {taken[0]}, which is another figure's name; rename it")
        return {part: float(value) for part, value in parts.items()}

    return checked
