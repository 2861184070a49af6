"""The command line of every stage: `python -m STAGE RECIPE.yaml [--check] [key=value ...]`, and `--help`.

    main(PPO, "ppo.train:train")                                the whole body of ppo/__main__.py
    main(Show, "show.print_page:show", read=show_recipe)        for a command that takes recipes of other stages

The stage, and with it torch, is imported once the recipe is known to be good.
"""

import importlib
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from config.describe import help_text
from config.inputs import check_inputs
from config.loader import load
from config.packages import check_packages
from config.schema import Recipe, RecipeError
from config.threads import choose_wait_policy

# Calls a stage with its recipe, and turns what goes wrong into one line and an exit code.
RUNNER = "engine.run.entry:run"


def main(
    schema: type[Recipe],
    stage: str,
    *,
    read: Callable[[str, Sequence[str]], Any] | None = None,
    needs_inputs: bool = True,
) -> None:
    """Run `stage`, a function written "module:function", with the recipe that the command line names.

    `--check` says whether the recipe is good and stops there; `--help` prints every key of `schema`. A mistake is one
    line on stderr and exit code 2.

    Args:
        schema: what `--help` describes, and what the recipe is loaded as unless `read` is given.
        read: called with the recipe's path and the overrides, returns what the stage gets; raises RecipeError.
        needs_inputs: whether the files that the recipe names must exist; `read` checks for itself.
    """
    recipe = from_command_line(schema, sys.argv[1:], read=read, needs_inputs=needs_inputs)
    choose_wait_policy()
    function(RUNNER)(function(stage), recipe)


def from_command_line(
    schema: type[Recipe],
    arguments: Sequence[str],
    *,
    read: Callable[[str, Sequence[str]], Any] | None = None,
    needs_inputs: bool = True,
) -> Any:
    """Return the recipe that the arguments name, as `main` loads it; exit if there is none to run."""
    usage = f"usage: python -m {_module()} RECIPE.yaml [--check] [key=value ...]"
    if "-h" in arguments or "--help" in arguments:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader may have seen enough (| head)
        print(usage, "", *help_text(schema), sep="\n")
        sys.exit(0)
    path, *overrides = [argument for argument in arguments if argument != "--check"] or [""]
    overrides = joined(overrides)
    if not path or "=" in path or path.startswith("-"):
        _exit(f"no recipe given; {usage}")
    try:
        if read is not None:
            recipe = read(path, overrides)
        else:
            recipe = load(schema, path, overrides)
            check_packages(recipe)
            if needs_inputs:
                check_inputs(recipe, Path(path))
    except RecipeError as error:
        _exit(str(error))
    if "--check" in arguments:
        print("recipe ok")
        sys.exit(0)
    return recipe


def joined(words: Sequence[str]) -> list[str]:
    """Return the overrides that a shell has split at spaces, whole: a word belongs to the one with an open bracket.

    make hands ARGS to a shell, which makes four words of `eval.subjects={a: A, b: B}`.
    """
    overrides: list[str] = []
    for word in words:
        last = overrides[-1] if overrides else ""
        if sum(map(last.count, "{[")) > sum(map(last.count, "}]")):
            overrides[-1] += f" {word}"
        else:
            overrides.append(word)
    return overrides


def function(path: str) -> Callable[..., Any]:
    """Import the function that "module:function" names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _module() -> str:
    """Return the name under which Python runs the command, as `-m` takes it."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else sys.argv[0]


def _exit(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
