"""Exceptions that end a run."""

from config import RecipeError


class RunError(RecipeError):
    """A user's error that is found only after the run has started. Printed in one line; exit code 2."""


class AlreadyFinishedError(Exception):
    """The run of this recipe is already finished; there is nothing to do."""


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, without its full stop, for quoting in a one-line message."""
    return str(error).strip().split("\n")[0].rstrip(".")
