"""The base classes of recipes and their sections, and RecipeError, the error for users' mistakes.

A section is a frozen dataclass. Bounds are declared with the field (`number(0.2, above=0)`); rules about several fields
are in the section's `check`. Both are checked after all values have been converted to their types.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from omegaconf import MISSING

Stage = Literal["sft", "reward", "ppo", "eval", "prompts", "candidates", "pairs"]
STAGES: tuple[str, ...] = get_args(Stage)

# Keys of a field's metadata.
RANGE = "range"
WHOLE = "whole"
# For a mapping whose keys another library defines: a function that returns them.
NAMES = "names"
# Whether a field may change, or grow, when its run resumes; for a mapping, the names that may (config/resume.py).
CHANGEABLE = "changeable"
GROWS = "grows"
# Value -> the optional package that it needs; for a mapping, name -> such a table (config/packages.py).
PACKAGES = "packages"


class RecipeError(Exception):
    """A user's mistake in a recipe, an override or a path. The message is one line: what, where, and how to fix it.

    `key` is the dotted key that the message is about, if any; with it the loader adds file and line to the message.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


@dataclasses.dataclass(frozen=True)
class Range:
    """The bounds of a number: `value in range` checks them, `str(range)` is their text in messages."""

    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )

    def __str__(self) -> str:
        bounds = {"above": self.above, "at least": self.least, "below": self.below, "at most": self.most}
        return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)


def number(
    default: Any = MISSING,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
    changeable: bool = False,
    grows: bool = False,
) -> Any:
    """Return a dataclass field for a number within bounds; without a default it is mandatory.

    `changeable`: whether the value may change when the run resumes. `grows`: whether it may become larger.
    """
    metadata = {RANGE: Range(above, least, below, most), CHANGEABLE: changeable, GROWS: grows}
    return dataclasses.field(default=default, metadata=metadata)


def setting(default: Any, *, changeable: bool = False, packages: Mapping[Any, str] | None = None) -> Any:
    """Return a dataclass field for a value without bounds.

    `changeable`: whether the value may change when the run resumes. `packages`: value -> the optional package it needs.
    """
    metadata = {CHANGEABLE: changeable, PACKAGES: packages or {}}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def whole_mapping(*references: str) -> Any:
    """Return a dataclass field for a mapping, empty by default, that replaces an earlier one when given as a whole.

    `eval.subjects={a: A}` leaves only a, whatever the file names; `eval.subjects.b=B` adds or changes b. Other mappings
    (`data.fields`, `trainer`) are merged key by key.

    `references` are fields of the same section whose value is a name in the mapping. If an override replaces the
    mapping and the name is gone, the field is set to null.
    """
    return dataclasses.field(default_factory=dict, metadata={WHOLE: references})


@dataclasses.dataclass(frozen=True)
class Section:
    """Base class of all sections and recipes."""

    def check(self, key: str) -> None:
        """Raise RecipeError if fields contradict each other. `key` is the section's dotted name, "" for a recipe."""


@dataclasses.dataclass(frozen=True)
class Recipe(Section):
    """Base class of the recipes of all stages."""

    STAGE: ClassVar[Stage | None] = None
    """the stage whose recipes this schema describes; None for commands that accept recipes of any stage"""

    stage: Stage = MISSING
    """which stage runs the recipe"""

    def inputs(self) -> Iterator[tuple[str, str]]:
        """Yield (key, path) of every file or folder that must exist before the stage starts; hub ids are left out."""
        raise NotImplementedError

    def fixed_keys(self, before: Mapping[str, Any]) -> dict[str, str]:
        """Return key -> reason, for keys that may otherwise change when a run resumes but not in this recipe.

        `before` has the values of the recipe that started the run.
        """
        return {}

    def warnings(self) -> Iterator[str]:
        """Yield what is probably not meant in this recipe; `--check` prints it."""
        yield from ()

    def memory_advice(self) -> str:
        """Return the end of the message "out of memory; ...": which keys to change."""
        return "use a smaller model, or a device with more memory"


def join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def validate(section: Section, key: str = "") -> None:
    """Raise RecipeError for the first value that is out of bounds, NaN or infinite, or combination that cannot work."""
    for field in dataclasses.fields(section):
        value, full_key = getattr(section, field.name), join(key, field.name)
        if isinstance(value, Section):
            validate(value, full_key)
            continue
        for place, item in _scalars(value, full_key):
            if isinstance(item, float) and not math.isfinite(item):
                raise RecipeError(f"{place} is {item}; it must be a finite number", key=full_key)
            bounds = field.metadata.get(RANGE)
            if bounds is not None and item is not None and item not in bounds:
                raise RecipeError(f"{place} is {show(item)}; it must be {bounds}", key=full_key)
    section.check(key)


def _scalars(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of every leaf in nested lists and mappings."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _scalars(item, join(key, str(name)))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from _scalars(item, f"{key}[{index}]")
    else:
        yield key, value


def show(value: Any) -> str:
    """Return a value for an error message, as the user would write it in a recipe."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return " ".join(value.split()) or "''"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {show(item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(show(item) for item in value) + "]"
    return str(value)
