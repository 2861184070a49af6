"""A stage's recipe, from defaults, files and overrides to one frozen, checked dataclass. Imports no torch.

dataclass defaults <- the file's `extends`, parents first <- the file <- key=value ...
"""

import dataclasses
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError

from config import files
from config.describe import describe
from config.inputs import check_inputs
from config.schema import Recipe, RecipeError, validate
from config.typed import Builder

RecipeT = TypeVar("RecipeT", bound=Recipe)


@dataclass(frozen=True)
class _Override:
    """One `key=value` of the command line; `raw` is the value as it was typed."""

    key: str
    value: Any
    raw: str


def load(schema: type[RecipeT], path: str | Path, overrides: Sequence[str] = ()) -> RecipeT:
    """The recipe in `path` with `overrides` (each `dotted.key=value`) laid over it.

    Raises RecipeError for an unknown or missing key, a wrong type, a value out of bounds, keys that do not go together.
    Whether the files it names exist is not looked at; see `config.inputs`.
    """
    layers = files.read(Path(path))
    parsed = [_parse(override) for override in overrides]
    builder = Builder(schema)
    try:
        for _, values in layers:
            builder.set((), values)
        for override in parsed:
            builder.set(tuple(override.key.split(".")), override.value, override.raw)
        if missing := builder.missing():
            raise RecipeError(
                f"{path}: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; add "
                f"{' '.join(f'{key}=VALUE' for key in missing)} to the command (with make, to ARGS) or to the file"
            )
        recipe = builder.build()
        validate(recipe)
    except RecipeError as error:
        raise _located(error, layers, parsed) from None
    return recipe


def load_part(schema: type[RecipeT], path: str | Path, overrides: Sequence[str] = ()) -> RecipeT:
    """What of any stage's recipe concerns `schema`: as `load`, but sections that it does not have may stand there."""
    known = {section.name for section in dataclasses.fields(schema)}
    others = {name for _, values in files.read(Path(path)) for name in values} - known
    fields = [(name, Any, None) for name in others]
    return load(dataclasses.make_dataclass(schema.__name__, fields, bases=(schema,), frozen=True), path, overrides)


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe as YAML with every default and interpolation written out; loading it gives the same recipe."""
    return yaml.safe_dump(_escaped(dataclasses.asdict(recipe)), sort_keys=False, allow_unicode=True, width=120)


def load_ready(schema: type[RecipeT], path: str, overrides: Sequence[str]) -> RecipeT:
    """As `load`; RecipeError also where an input is not on this machine."""
    recipe = load(schema, path, overrides)
    check_inputs(recipe, Path(path))
    return recipe


def from_command_line(
    schema: type[RecipeT],
    arguments: Sequence[str] | None = None,
    read: Callable[[type[RecipeT], str, Sequence[str]], RecipeT] = load_ready,
    module: str | None = None,
) -> RecipeT:
    """The recipe that `python -m STAGE RECIPE.yaml [--check] [key=value ...]` asks for, its inputs in place.

    STAGE is `module`, else the package that the schema stands in.

    `--check` says whether the recipe is good and ends there, `--help` tells every key. A mistake is one line on stderr,
    and exit code 2.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    usage = f"usage: python -m {module or schema.__module__.rpartition('.')[0]} RECIPE.yaml [--check] [key=value ...]"
    if "-h" in arguments or "--help" in arguments:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader may have had enough (| head)
        print(usage, *(f"\n{key}={default}\n    {text}" for key, default, text in describe(schema)), sep="\n")
        sys.exit(0)
    only_check = "--check" in arguments
    path, *overrides = [argument for argument in arguments if argument != "--check"] or [""]
    if not path or "=" in path or path.startswith("-"):
        _exit(f"no recipe given; {usage}")
    try:
        recipe = read(schema, path, overrides)
    except RecipeError as error:
        _exit(str(error))
    if only_check:
        print("recipe ok")
        sys.exit(0)
    return recipe


def _parse(override: str) -> _Override:
    key, equals, raw = override.partition("=")
    if not equals or not key.strip("."):
        raise RecipeError(f"{override} is no override; write key=value, for example run.seed=1")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={raw}"]))["value"]
    except (yaml.YAMLError, GrammarParseError):
        value = raw  # Text with YAML's own characters in it; a field that is not text will refuse it.
    return _Override(key, value, raw)


def _located(error: RecipeError, layers: list[tuple[Path, dict[Any, Any]]], overrides: list[_Override]) -> RecipeError:
    """The error with file and line before it, if what it is about was last set in a file."""
    if error.key is None:
        return error
    key = error.key.partition("[")[0]
    if any(f"{key}.".startswith(f"{other.key}.") or other.key.startswith(f"{key}.") for other in overrides):
        return error
    for path, _ in reversed(layers):
        if line := files.line_of(path, key):
            return RecipeError(f"{path}:{line}: {error}", key=error.key)
    return error


def _escaped(value: Any) -> Any:
    """Plain text that looks like an interpolation, marked as text."""
    if isinstance(value, str):
        return value.replace("${", "\\${")
    if isinstance(value, Mapping):
        return {name: _escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value


def _exit(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
