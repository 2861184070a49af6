"""Load, check and call the user's functions that score answers; a recipe names them as "module:function"."""

import importlib
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

from engine.errors import RunError, first_line

# An error quotes at most this many characters of an answer.
QUOTED_CHARACTERS = 80


def load_function(path: str, key: str, *arguments: str) -> Callable[..., Any]:
    """Return the function at "module:function"; check that it can be called with `arguments` by position.

    Raises RunError, naming the recipe key `key`, if there is no such function or it takes other arguments.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise RunError(
            f"{key}={path}: {module_name} cannot be imported ({error}); name a module that Python can import from "
            f"here, or leave {key} out"
        ) from None
    function = vars(module).get(name)
    if not callable(function):
        raise RunError(f"{key}={path}: {module_name} has no function {name}; write module:function")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C have no signature
        return function
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise RunError(
            f"{key}={path} is {name}{signature}, but is called with ({', '.join(arguments)}): {error}; write "
            f"def {name}({', '.join(arguments)})"
        ) from None
    return function


def is_number(value: Any) -> bool:
    """Return whether a score is a finite real number, of numpy or Python; booleans are not."""
    return not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)


def function_error(name: str, answer: str, error: Exception) -> RunError:
    """Return the RunError for a user's function that failed: its name, the answer and the exception."""
    return RunError(
        f"{name} failed on the answer {answer[:QUOTED_CHARACTERS]!r}: {type(error).__name__}: {first_line(error)}"
    )
