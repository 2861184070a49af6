"""Decide which keys of a recipe may change when its run resumes. Imports no torch.

A run belongs to one recipe. Keys that do not affect the result (the run's folder, logging, batch sizes of forward
passes) may change all the same, and a run may be made longer. Fields declare this (`changeable`, `grows`), and
`Recipe.fixed_keys` returns the keys for which a recipe makes an exception.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from config.loader import resolved_yaml
from config.schema import CHANGEABLE, GROWS, Recipe, Section, join
from config.typed import field_types, is_section, to_dict

MISSING = object()


@dataclass(frozen=True)
class Changes:
    """The dotted keys, sorted, in which a recipe differs from the one that started its run."""

    refused: tuple[str, ...]
    """keys that may not change, each followed by the reason in brackets if it is not just that it affects the result"""
    permitted: tuple[str, ...]
    grown: bool
    """whether the run has become longer"""
    only_longer: bool = False
    """whether all refused keys make the run longer, which its learning-rate schedule does not allow"""

    def __str__(self) -> str:
        """Return the end of the message "... which differs in"."""
        text = ", ".join(self.refused)
        return f"{text} ({', '.join(self.permitted)} may change)" if self.permitted else text


def changes(before_yaml: str, recipe: Recipe) -> Changes:
    """Compare the recipe that started a run (as YAML) with the recipe to resume it with.

    Keys that `before_yaml` lacks, because an earlier version did not have them, count with their default.
    """
    before = _filled(type(recipe), to_dict(OmegaConf.create(before_yaml)), recipe)
    now = to_dict(OmegaConf.create(resolved_yaml(recipe)))
    old, new = dict(_leaves(before)), dict(_leaves(now))
    changeable, grows = (set(_flagged(type(recipe), flag)) for flag in (CHANGEABLE, GROWS))
    fixed = recipe.fixed_keys(before)
    refused, permitted, grown, longer = [], [], False, 0
    for key in sorted(old.keys() | new.keys()):
        was, is_now = old.get(key, MISSING), new.get(key, MISSING)
        if was == is_now:
            continue
        larger = all(isinstance(value, int | float) for value in (was, is_now)) and is_now > was
        if key in fixed:
            refused.append(f"{key} ({fixed[key]})")
            longer += key in grows and larger
        elif key in changeable or (key in grows and larger):
            permitted.append(key)
            grown |= key in grows
        else:
            refused.append(f"{key} (it may only grow)" if key in grows else key)
    return Changes(tuple(refused), tuple(permitted), grown, only_longer=0 < longer == len(refused))


def _filled(schema: type[Section], values: Mapping[str, Any], recipe: Section) -> dict[str, Any]:
    """Return the values with defaults for missing keys; recipes of earlier versions may lack even `stage`."""
    filled = dict(values)
    for field in dataclasses.fields(schema):
        hint = field_types(schema)[field.name]
        if is_section(hint):
            filled[field.name] = _filled(hint, values.get(field.name) or {}, getattr(recipe, field.name))
        elif field.name not in values and field.name == "stage":
            filled["stage"] = getattr(recipe, field.name)
        elif field.name not in values:
            factory = field.default_factory
            filled[field.name] = field.default if factory is dataclasses.MISSING else factory()
    return filled


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) of nested mappings; nothing for an empty mapping."""
    if not isinstance(tree, Mapping):
        yield key, tree
        return
    for name, branch in tree.items():
        yield from _leaves(branch, join(key, str(name)))


def _flagged(schema: type[Section], flag: str, key: str = "") -> Iterator[str]:
    """Yield the full keys of the fields with a flag; for a mapping, of the names that the flag lists."""
    for field in dataclasses.fields(schema):
        hint, full_key = field_types(schema)[field.name], join(key, field.name)
        flagged = field.metadata.get(flag, False)
        if is_section(hint):
            yield from _flagged(hint, flag, full_key)
        elif flagged is True:
            yield full_key
        elif flagged:
            yield from (join(full_key, name) for name in flagged)
