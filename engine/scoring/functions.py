"""Functions of the user's that score answers, named by a recipe as "module:function": loaded, checked, called."""

import importlib
import inspect
import math
import numbers
from collections.abc import Callable
from typing import Any

from engine.errors import RunError, first_line

# Characters of an answer that an error quotes.
QUOTED = 80


def load_function(path: str, key: str, *arguments: str) -> Callable[..., Any]:
    """Return the function at "module:function", which will be called with `arguments`, given by position.

    Raises RunError, naming the recipe's key, if there is no such function or if it takes other arguments.
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
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C do not say what they take
        return function
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise RunError(
            f"{key}={path} is {name}{signature}, and is called with ({', '.join(arguments)}): {error}; write "
            f"def {name}({', '.join(arguments)})"
        ) from None
    return function


def is_number(value: Any) -> bool:
    """Return whether a score is a finite real number, numpy's included; a truth value is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def failed(name: str, answer: str, error: Exception) -> RunError:
    """Return the error that says which of the user's functions failed, on which answer, and how."""
    return RunError(f"{name} failed on the answer {answer[:QUOTED]!r}: {type(error).__name__}: {first_line(error)}")
