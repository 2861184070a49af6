"""The text of `--help`: every key of a schema with its default, its type or permitted values, and its meaning."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from omegaconf import MISSING

from config.data import SOURCES, Source
from config.schema import CHANGEABLE, GROWS, NAMES, RANGE, Recipe, Section, join, show
from config.typed import describe_type, field_types, is_section


@dataclass(frozen=True)
class Key:
    """One key of a schema."""

    name: str
    """dotted"""
    default: str
    """as in YAML; empty for a mandatory key"""
    kind: str
    """type, permitted values and bounds, in words"""
    meaning: str
    """the text under the field"""
    is_source: bool
    """whether the key names sources of records"""
    names: Mapping[str, str]
    """of a mapping whose names another library defines: name -> type or permitted values"""


def describe(schema: type[Section], key: str = "") -> Iterator[Key]:
    """Yield every key of a schema; `key` is the schema's own dotted name, put before theirs."""
    hints, meanings = field_types(schema), _meanings(schema)
    for field in dataclasses.fields(schema):
        full_key = join(key, field.name)
        if is_section(hints[field.name]):
            yield from describe(hints[field.name], full_key)
            continue
        default, is_source = _default(field), SOURCES in field.metadata
        written = "" if default == MISSING else "null" if default is None else show(default)
        hint = hints[field.name]
        kind = "a source or a list of sources" if is_source else "as described" if hint is Any else describe_type(hint)
        if bounds := field.metadata.get(RANGE):
            kind += f", {bounds}"
        may = (
            "change" if field.metadata.get(CHANGEABLE) is True else "grow" if field.metadata.get(GROWS) is True else ""
        )
        if may:
            kind += f"; may {may} when a run resumes"
        names = field.metadata[NAMES]() if NAMES in field.metadata else {}
        yield Key(full_key, written, kind, meanings[field.name], is_source, names)


def help_text(schema: type[Recipe]) -> Iterator[str]:
    """Yield the lines that `--help` prints below the usage."""
    keys = list(describe(schema))
    for key in keys:
        if key.name == "stage" and schema.STAGE is not None:
            key = dataclasses.replace(key, kind=schema.STAGE)
        yield from _lines(key)
    if named := [key.name for key in keys if key.is_source]:
        example = f"{named[0]}={{path: FILE, take: 100}}"
        yield f"A source is a path, a hub id, or a mapping, for example {example}, with the keys"
        yield ""
        for key in describe(Source):
            yield from _lines(key)


def _lines(key: Key) -> Iterator[str]:
    yield f"{key.name}={key.default}"
    yield f"    {key.kind}{'' if key.default else '; mandatory'}"
    yield from textwrap.wrap(key.meaning, 120, initial_indent="    ", subsequent_indent="    ")
    for name, kind in key.names.items():
        yield from textwrap.wrap(f"{key.name}.{name}: {kind}", 120, initial_indent="    ", subsequent_indent="        ")
    yield ""


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _meanings(schema: type[Section]) -> dict[str, str]:
    """Return field -> the text under it, also for inherited fields. It is read from the source: Python drops it."""
    classes = [base for base in reversed(schema.__mro__) if dataclasses.is_dataclass(base)]
    sources = [ast.parse(textwrap.dedent(inspect.getsource(each))).body[0] for each in classes]
    return {
        ast.unparse(field.target): " ".join(str(text.value.value).split())
        for source in sources
        if isinstance(source, ast.ClassDef)
        for field, text in pairwise(source.body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
