"""A schema in words: every key, its default, and the line of meaning that stands under the field."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_type_hints

from omegaconf import MISSING

from config.schema import Section, join, show
from config.typed import is_section


def describe(schema: type[Section], key: str = "") -> Iterator[tuple[str, str, str]]:
    """(full key, default, meaning) of every key below `key`; the default of a mandatory one is empty."""
    hints, meanings = get_type_hints(schema), _meanings(schema)
    for field in dataclasses.fields(schema):
        full_key = join(key, field.name)
        if is_section(hints[field.name]):
            yield from describe(hints[field.name], full_key)
        else:
            default = _default(field)
            written = "" if default == MISSING else "null" if default is None else show(default)
            yield full_key, written, meanings[field.name]


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _meanings(schema: type[Section]) -> dict[str, str]:
    """The text under each field, inherited ones too, which Python itself does not keep."""
    classes = [base for base in schema.__mro__ if dataclasses.is_dataclass(base)]
    bodies = [ast.parse(textwrap.dedent(inspect.getsource(each))).body[0].body for each in classes]
    return {
        field.target.id: " ".join(text.value.value.split())
        for body in bodies
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
