"""The command line of every stage: `python -m STAGE RECIPE.yaml [--check] [key=value ...]`, and `--help`.

    main(PPO, "ppo.train:train")                                the whole body of ppo/__main__.py
    main(Show, "show.print_page:show", read=show_recipe)        for a command that takes recipes of other stages

The stage, and torch with it, is imported only after the recipe has been checked.
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

# Runs a stage with its recipe, and reports an error as one line and an exit code.
RUNNER = "engine.run.entry:run"


def main(
    schema: type[Recipe],
    stage: str,
    *,
    read: Callable[[str, Sequence[str]], Any] | None = None,
    needs_inputs: bool = True,
) -> None:
    """Run `stage`, a function written "module:function", with the recipe that the command line names.

    With `--check` the recipe is only checked; `--help` prints every key of `schema`. A mistake in the recipe or the
    arguments is reported as one line on stderr, with exit code 2.

    Args:
        schema: the schema that `--help` describes; the recipe is loaded with it unless `read` is given.
        read: returns the argument of the stage, given the recipe's path and the overrides; raises RecipeError.
        needs_inputs: whether the files that the recipe names must exist; with `read`, that function checks them.
    """
    recipe = from_command_line(schema, sys.argv[1:], read=read, needs_inputs=needs_inputs)
    choose_wait_policy()
    import_function(RUNNER)(import_function(stage), recipe)


def from_command_line(
    schema: type[Recipe],
    arguments: Sequence[str],
    *,
    read: Callable[[str, Sequence[str]], Any] | None = None,
    needs_inputs: bool = True,
) -> Any:
    """Return the recipe that the arguments name, as `main` loads it; exit after `--help`, `--check` and mistakes."""
    usage = f"usage: python -m {_module()} RECIPE.yaml [--check] [key=value ...]"
    if "-h" in arguments or "--help" in arguments:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # The output may be piped into head.
        print(usage, "", *help_text(schema), sep="\n")
        sys.exit(0)
    path, *overrides = [argument for argument in arguments if argument != "--check"] or [""]
    overrides = rejoin_overrides(overrides)
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
        for warning in recipe.warnings() if isinstance(recipe, Recipe) else ():
            print(f"warning: {warning}")
        print("recipe ok")
        sys.exit(0)
    return recipe


def rejoin_overrides(words: Sequence[str]) -> list[str]:
    """Join overrides that the shell has split at spaces: words after an open bracket belong to the same override.

    make passes ARGS to a shell, which splits `eval.subjects={a: A, b: B}` into four words.
    """
    overrides: list[str] = []
    for word in words:
        last = overrides[-1] if overrides else ""
        if sum(map(last.count, "{[")) > sum(map(last.count, "}]")):
            overrides[-1] += f" {word}"
        else:
            overrides.append(word)
    return overrides


def import_function(path: str) -> Callable[..., Any]:
    """Import and return the function at "module:function"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _module() -> str:
    """Return the module that Python runs, as it is given to `-m`."""
    spec = sys.modules["__main__"].__spec__
    return spec.name.removesuffix(".__main__") if spec else sys.argv[0]


def _exit(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
