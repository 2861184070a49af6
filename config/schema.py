"""What a recipe is made of: sections that carry their own bounds, and the one error that users see.

A section is a frozen dataclass. A bound stands beside the field it bounds (`number(0.2, above=0)`); rules for several
fields at once stand in the section's `check`. Both are checked after every value has its type.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

from omegaconf import MISSING

Stage = Literal["sft", "reward", "ppo", "eval", "prompts", "candidates", "pairs"]
STAGES: tuple[str, ...] = get_args(Stage)

# Keys of a field's metadata.
RANGE = "range"
WHOLE = "whole"
NAMES = "names"
# Whether a field may change, or grow, when its run resumes; of a mapping the names that may (config/resume.py).
CHANGEABLE = "changeable"
GROWS = "grows"
# Value -> the optional package that it needs; of a mapping, name -> such a table (config/packages.py).
PACKAGES = "packages"


class RecipeError(Exception):
    """A user's mistake in a recipe, an override or a path, in one line: what, where, and the way out.

    `key` is the dotted key that the message is about, if any; the loader puts file and line before the message.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a field may hold: `value in range`, and `str(range)` for messages."""

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

    `changeable` and `grows`: whether it may be another, or a larger one, when its run resumes.
    """
    metadata = {RANGE: Range(above, least, below, most), CHANGEABLE: changeable, GROWS: grows}
    return dataclasses.field(default=default, metadata=metadata)


def setting(default: Any, *, changeable: bool = False, packages: Mapping[Any, str] | None = None) -> Any:
    """Return a dataclass field that is no number.

    `changeable`: whether it may be another when its run resumes. `packages`: value -> the optional package it needs.
    """
    metadata = {CHANGEABLE: changeable, PACKAGES: packages or {}}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def whole_mapping(*references: str) -> Any:
    """Return a dataclass field for a mapping, empty by default, that replaces an earlier one when given as a whole.

    `eval.subjects={a: A}` leaves only a, whatever the file names; `eval.subjects.b=B` adds or changes b. Mappings
    without this (`data.fields`, `trainer`) are merged key by key.

    `references` are fields beside it that name one of its keys: where an override replaces the mapping, those that name
    a key that is gone are emptied.
    """
    return dataclasses.field(default_factory=dict, metadata={WHOLE: references})


def open_mapping(
    names: Callable[[], Iterable[str]],
    changeable: Collection[str] = (),
    grows: Collection[str] = (),
    packages: Mapping[str, Mapping[Any, str]] | None = None,
) -> Any:
    """Return a dataclass field for a mapping whose keys another library defines; `names` returns them for messages.

    `changeable` and `grows`: the names whose values may change, or grow, when the run resumes. `packages`: name -> its
    values that need an optional package.
    """
    metadata = {NAMES: names, CHANGEABLE: changeable, GROWS: grows, PACKAGES: packages or {}}
    return dataclasses.field(default_factory=dict, metadata=metadata)


class Section:
    """Base of every section and of every stage's recipe."""

    def check(self, key: str) -> None:
        """Raise RecipeError if fields contradict each other. `key` is the section's dotted name, "" for a recipe."""


@dataclasses.dataclass(frozen=True)
class Recipe(Section):
    """A stage's whole recipe: its stage, its sections, and the files and folders it reads."""

    STAGE: ClassVar[Stage | None] = None
    """the stage whose recipes this schema reads; None for commands that take a recipe of any stage"""

    stage: Stage = MISSING
    """which stage runs the recipe"""

    def inputs(self) -> Iterator[tuple[str, str]]:
        """Yield (key, path) of everything that must exist on this machine before the stage starts; no hub ids."""
        raise NotImplementedError

    def fixed_keys(self, before: Mapping[str, Any]) -> dict[str, str]:
        """Return key -> why a key that may change when a run resumes may not in this recipe.

        `before` holds the values of the recipe that began the run.
        """
        return {}

    def memory_advice(self) -> str:
        """Return which keys to change when memory runs out, in words that follow "out of memory;"."""
        return "take a smaller model, or a device with more"


def join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def validate(section: Section, key: str = "") -> None:
    """Raise RecipeError for the first value out of bounds, NaN, infinity, or combination that cannot work."""
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
    """Return a value as the user would write it in a recipe."""
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
