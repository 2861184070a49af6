"""The gold scorer: a function that knows how good an answer is, handed over by a recipe as "module:function".

Only evaluation and read-only monitors call it; no loss, reward, sampling or choice of checkpoint sees what it says.
"""

import importlib
from collections.abc import Callable, Collection
from typing import Any

from engine.run.folder import RunError

Gold = Callable[[dict[str, Any], str], dict[str, float]]
"""(record of the prompt, text of the answer) -> parts by name, `gold` their sum; `correct` is 1 for a right answer"""


def load_gold(path: str, key: str, taken_names: Collection[str] = ()) -> Gold:
    """The function at "module:function", its results checked; RunError, naming `key`, if there is no such thing.

    What it returns must be a dict of numbers with the key `gold`, and none of its parts may have one of `taken_names`,
    those of other figures (RunError at the first answer).
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise RunError(
            f"{key}={path}: {module_name} cannot be imported ({error}); name a module that python finds from here, "
            f"or leave {key} out"
        ) from None
    function = vars(module).get(name)
    if not callable(function):
        raise RunError(f"{key}={path}: {module_name} has no function {name}; write module:function")

    def checked(record: dict[str, Any], answer: str) -> dict[str, float]:
        parts = function(record, answer)
        if not isinstance(parts, dict) or "gold" not in parts:
            raise RunError(f"{key}={path} returned {parts!r}; it must return a dict of numbers with the key gold")
        if taken := sorted(parts.keys() & set(taken_names)):
            raise RunError(f"{key}={path} has a part called {taken[0]}, which is another figure's name; rename it")
        return {part: float(value) for part, value in parts.items()}

    return checked
