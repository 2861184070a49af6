"""The errors that end a run, whichever room raises them."""

from config import RecipeError


class RunError(RecipeError):
    """An error of the user's that shows only once the run has started: one line, exit code 2."""


class AlreadyFinishedError(Exception):
    """The folder holds the finished run of this recipe; there is nothing to do."""


def first_line(error: Exception) -> str:
    """Return the first line of another library's error without its full stop, to be quoted in a line of ours."""
    return str(error).strip().split("\n")[0].rstrip(".")
