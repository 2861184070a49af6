"""Decide whether an answer obeys its system prompt with a user's function, named by a recipe as "module:function"."""

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.errors import RunError
from engine.scoring.functions import function_error, is_number, load_function

Obeys = Callable[[dict[str, Any], str], float]
"""(record of the conversation, text of an answer) -> how well the answer obeys, from 0 to 1"""


def load_obeys(path: str, key: str) -> Obeys:
    """Load the function at "module:function"; the returned function checks its results.

    The user's function takes the record of a conversation and the text of one answer. It returns whether the answer
    obeys: a boolean, or a number from 0 to 1.

    Raises RunError, naming the recipe key `key`, if there is no such function or it takes other arguments. The returned
    function raises RunError if the user's function fails or returns something else.
    """
    function = load_function(path, key, "record", "answer")

    def checked(record: dict[str, Any], answer: str) -> float:
        try:
            obeyed = function(record, answer)
        except Exception as error:
            raise function_error(f"{key}={path}", answer, error) from error
        if not (isinstance(obeyed, bool | np.bool_) or (is_number(obeyed) and 0 <= obeyed <= 1)):
            raise RunError(f"{key}={path} returned {obeyed!r}; it must return true, false or a number from 0 to 1")
        return float(obeyed)

    return checked
