"""Whether an answer obeys the instruction of its system turn: a function given by a recipe as "module:function"."""

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.errors import RunError
from engine.scoring.functions import failed, is_number, load_function

Obeys = Callable[[dict[str, Any], str], float]
"""(record of the conversation, text of an answer) -> how far it obeys, from 0 to 1"""


def load_obeys(path: str, key: str) -> Obeys:
    """Load the function at "module:function", with its results checked.

    The function takes the record of a conversation and the text of one answer, and returns whether the answer obeys: a
    truth value, or a number from 0 to 1.

    Raises RunError, naming `key`, where there is no such function or it takes other arguments; the returned one raises
    it where the function fails or has a bad result.
    """
    function = load_function(path, key, "record", "answer")

    def checked(record: dict[str, Any], answer: str) -> float:
        try:
            obeyed = function(record, answer)
        except Exception as error:
            raise failed(f"{key}={path}", answer, error) from error
        if not (isinstance(obeyed, bool | np.bool_) or (is_number(obeyed) and 0 <= obeyed <= 1)):
            raise RunError(f"{key}={path} returned {obeyed!r}; it must return true, false or a number from 0 to 1")
        return float(obeyed)

    return checked
