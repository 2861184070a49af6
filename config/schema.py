"""What a recipe is made of: sections that carry their own bounds, and the one error a person sees.

A section is a frozen dataclass. A bound stands beside the field it bounds (`number(0.2, above=0)`), what concerns
several fields at once stands in the section's `check`. Neither is consulted before every value has its right type.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import MISSING

RANGE = "range"


class RecipeError(Exception):
    """A mistake of the person in a recipe, an override or a path: one line that says what, where, and the way out.

    `key` is the dotted key the message is about, where there is one; the loader puts file and line before it.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers a field may hold. `value in range`, and `str(range)` to tell a person."""

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
) -> Any:
    """A dataclass field for a number within bounds; mandatory without a default."""
    return dataclasses.field(default=default, metadata={RANGE: Range(above, least, below, most)})


class Section:
    """Base of every section and of every stage's recipe."""

    def check(self, key: str) -> None:
        """Raises RecipeError where fields do not go together. `key` is the section's dotted name, "" for a recipe."""


class Recipe(Section):
    """A stage's whole recipe: sections, and the files and folders it reads."""

    def inputs(self) -> Iterator[tuple[str, str]]:
        """(key, path) of everything that has to be on this machine before the stage begins; no hub ids."""
        raise NotImplementedError

    def memory_advice(self) -> str:
        """Which keys to change where memory runs out, in words that follow "out of memory;"."""
        return "take a smaller model, or a device with more"


def join(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def validate(section: Section, key: str = "") -> None:
    """Raises RecipeError for the first value out of bounds, nan or infinity, or combination that cannot work."""
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
    """(key, value) of everything in nested lists and mappings."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _scalars(item, join(key, str(name)))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from _scalars(item, f"{key}[{index}]")
    else:
        yield key, value


def show(value: Any) -> str:
    """A value as the person would write it in a recipe."""
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
