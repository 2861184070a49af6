"""Load a recipe from defaults, files and overrides into a frozen, checked dataclass. Imports no torch.

Later values replace earlier ones: dataclass defaults, the files in `extends` (parents first), the file, key=value ...
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError

from config.files import line_of, read_layers
from config.schema import Recipe, RecipeError, validate
from config.stage import check_stage
from config.typed import Builder, to_dict

RecipeT = TypeVar("RecipeT", bound=Recipe)


@dataclass(frozen=True)
class _Override:
    """One `key=value` of the command line; `raw` is the value as typed."""

    key: str
    value: Any
    raw: str


def load(
    schema: type[RecipeT],
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    other_sections: bool | Collection[str] = False,
) -> RecipeT:
    """Return the recipe in `path` with `overrides` (each `dotted.key=value`) applied.

    `other_sections` are top-level keys to accept and ignore although the schema does not have them: these names, or
    with True all that the files contain.

    Raise RecipeError for a missing or wrong stage, an unknown or missing key, a wrong type, a value out of bounds, and
    keys that contradict each other. Whether input files exist is checked elsewhere (`config.inputs`).
    """
    layers = read_layers(Path(path))
    parsed = [_parse(override) for override in overrides]
    try:
        stage = next((override.value for override in reversed(parsed) if override.key == "stage"), None)
        check_stage(layers, stage, schema.STAGE)
        builder = Builder(schema)
        names = {name for _, values in layers for name in values} if other_sections is True else other_sections or ()
        builder.allow(set(names) - {field.name for field in dataclasses.fields(schema)})
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


def resolved_yaml(recipe: Recipe) -> str:
    """Return the recipe as YAML with all defaults and resolved interpolations; loading it gives the same recipe."""
    return yaml.safe_dump(_escaped(dataclasses.asdict(recipe)), sort_keys=False, allow_unicode=True, width=120)


def _parse(override: str) -> _Override:
    """Split an override into key and value, and parse the value as YAML.

    Names with dots and values with operators need quotes: `eval.require={"a.b.mean": ">= -0.01"}`.
    """
    key, equals, raw = override.partition("=")
    if not equals or not key.strip("."):
        way_out = "write key=value, for example run.seed=1"
        if override.endswith(("}", "]")):  # The shell has split a mapping or a list at its spaces.
            way_out = "if it belongs to the value before it, put quotes around the whole: 'key={a: b}'"
        raise RecipeError(f"{override} is not an override; {way_out}")
    try:
        value = to_dict(OmegaConf.from_dotlist([f"value={raw}"]))["value"]
    except (yaml.YAMLError, GrammarParseError):
        value = raw  # Text that is not valid YAML; only text fields accept it.
    return _Override(key, value, raw)


def _located(error: RecipeError, layers: list[tuple[Path, dict[Any, Any]]], overrides: list[_Override]) -> RecipeError:
    """Return the error with file and line in front, unless the command line sets its key."""
    if error.key is None:
        return error
    key = error.key.partition("[")[0]
    if any(f"{key}.".startswith(f"{other.key}.") or other.key.startswith(f"{key}.") for other in overrides):
        return error
    for path, _ in reversed(layers):
        if line := line_of(path, key):
            return RecipeError(f"{path}:{line}: {error}", key=error.key)
    return error


def _escaped(value: Any) -> Any:
    """Return plain values with `${` in text escaped, so that it is not read as an interpolation."""
    if isinstance(value, str):
        return value.replace("${", "\\${")
    if isinstance(value, Mapping):
        return {name: _escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return value
