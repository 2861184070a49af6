"""From plain values to typed sections: OmegaConf converts, and a mistake is reported in the user's own words.

Values are set one by one, so that the key at fault is always known; OmegaConf's own errors run over several lines and
do not always name it.
"""

import dataclasses
import difflib
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from config.schema import NAMES, WHOLE, RecipeError, Section, join, show

SectionT = TypeVar("SectionT", bound=Section)


class Builder(Generic[SectionT]):
    """Collects values for a section that stands at `key` of a recipe ("" for the recipe itself)."""

    def __init__(self, schema: type[SectionT], key: str = "") -> None:
        self.schema, self.key = schema, key
        self.config = OmegaConf.structured(schema)
        self.others: set[str] = set()

    def allow(self, names: Collection[str]) -> None:
        """Accept these names beside the schema's own; interpolations see them, the built section lacks them."""
        self.others |= set(names)

    def set(self, path: tuple[str, ...], value: Any, raw: str | None = None) -> None:
        """Put `value` at `path`.

        A mapping is merged into a section, and into a field that is itself a mapping unless that is replaced as a whole
        (`config.schema.whole_mapping`); everything else, lists too, replaces what was there. `raw` is the text that an
        override was read from: a text field takes it as it stands, so that `01` stays `01`.

        Raise RecipeError for an unknown key and for a value of the wrong type.
        """
        self._set(self.config, self.schema, self.key, path, value, raw)

    def missing(self) -> list[str]:
        """Return the mandatory keys that have no value yet."""
        return list(_missing(self.config, self.schema, self.key))

    def build(self) -> SectionT:
        """Return the frozen dataclass, interpolations resolved. Raise RecipeError if one cannot be resolved."""
        try:
            return _instance(self.schema, OmegaConf.to_container(self.config, resolve=True))
        except OmegaConfBaseException as error:
            key = join(self.key, error.full_key or "")
            reason = str(error).splitlines()[0].rpartition("resolving interpolation: ")[2].strip('"')
            raise RecipeError(f"{key} cannot be resolved: {reason}", key=key) from None

    def _set(
        self, config: DictConfig, schema: type[Section], key: str, path: tuple[str, ...], value: Any, raw: str | None
    ) -> None:
        if not path:
            if not isinstance(value, Mapping):
                names = ", ".join(join(key, name) for name in field_types(schema))
                raise RecipeError(f"{key} is {show(value)}, but it is a section; set its keys: {names}", key=key)
            for name, item in value.items():
                self._set(config, schema, key, (str(name),), item, None)
            return
        name, rest = path[0], path[1:]
        full_key, hints = join(key, name), field_types(schema)
        if name in self.others and config is self.config:
            with open_dict(config):
                _put(config, ".".join(path), value, Any, ".".join(path), merge=True)
            return
        if name not in hints:
            raise RecipeError(
                f"unknown key {join(key, '.'.join(path))}; {self._nearest(schema, key, name)}", key=full_key
            )
        if is_section(hints[name]):
            self._set(config[name], hints[name], full_key, rest, value, raw)
        elif get_origin(hints[name]) is dict and len(rest) == 1:
            _put(config, name, {**_plain(config[name]), rest[0]: value}, hints[name], join(full_key, rest[0]))
        elif rest:
            whole = join(full_key, rest[0]) if get_origin(hints[name]) is dict else full_key
            raise RecipeError(
                f"{join(full_key, '.'.join(rest))} is no key of its own; give {whole} as a whole", key=whole
            )
        elif get_origin(hints[name]) is dict and isinstance(value, Mapping):
            references = _metadata(schema, name).get(WHOLE)
            before = _plain(config[name]) if references is None else {}
            _put(config, name, {**before, **value}, hints[name], full_key)
            for other in references or ():
                if raw is not None and config[other] not in value:
                    _put(config, other, None, hints[other], join(key, other))
        else:
            if get_origin(hints[name]) is list and isinstance(value, str) and "${" not in value:
                value = [value]  # one name stands for a list of one
            _put(config, name, _text(value, raw, full_key) if _is_text(hints[name]) else value, hints[name], full_key)

    def _nearest(self, schema: type[Section], key: str, name: str) -> str:
        """Return the way out of an unknown key: the key that was probably meant, else the keys there are."""
        everywhere = [full_key for full_key in all_keys(self.schema, self.key) if full_key.endswith(f".{name}")]
        everywhere = everywhere or [full_key for full_key in _open_keys(self.schema) if full_key.endswith(f".{name}")]
        here = [join(key, near) for near in nearest(name, field_types(schema))]
        if meant := everywhere or here:
            return f"did you mean {' or '.join(meant)}?"
        return f"{key or 'the recipe'} has {', '.join(field_types(schema))}"


def field_types(schema: type[Section]) -> dict[str, Any]:
    """Return the type of every field; class variables are none."""
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def all_keys(schema: type[Section], key: str = "") -> Iterator[str]:
    """Yield every full key of a schema, depth first."""
    for name, hint in field_types(schema).items():
        yield join(key, name)
        if is_section(hint):
            yield from all_keys(hint, join(key, name))


def _open_keys(schema: type[Section]) -> Iterator[str]:
    """Yield the full keys of a recipe's mappings whose keys another library defines."""
    for field in dataclasses.fields(schema):
        if NAMES in field.metadata:
            yield from (join(field.name, name) for name in field.metadata[NAMES]())


def is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Section)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return the known name that is most like `name`, in a list; an empty list if none is."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)


def _missing(config: DictConfig, schema: type[Section], key: str) -> Iterator[str]:
    for name, hint in field_types(schema).items():
        if is_section(hint):
            yield from _missing(config[name], hint, join(key, name))
        elif OmegaConf.is_missing(config, name):
            yield join(key, name)


def _instance(schema: type[SectionT], values: Mapping[str, Any]) -> SectionT:
    """Return the dataclass with these values; names that it does not have are left out."""
    hints = field_types(schema)
    return schema(
        **{name: _instance(hint, values[name]) if is_section(hint) else values[name] for name, hint in hints.items()}
    )


def _put(config: DictConfig, name: str, value: Any, hint: Any, key: str, *, merge: bool = False) -> None:
    """Set one field of a section, converted to its type."""
    wrong = RecipeError(f"{key} is {show(value)}; it must be {words(hint)}", key=key)
    if hint is bool and isinstance(value, int | float) and not isinstance(value, bool):
        raise wrong  # OmegaConf takes any number for a truth value.
    try:
        with read_write(config):
            OmegaConf.update(config, name, value, merge=merge)
    except GrammarParseError:
        raise RecipeError(
            f"{key} is {show(value)}, which is no interpolation; write \\${{ where ${{ is meant as it stands",
            key=key,
        ) from None
    except (OmegaConfBaseException, TypeError, ValueError):
        raise wrong from None


def _metadata(schema: type[Section], name: str) -> Mapping[str, Any]:
    return next(field.metadata for field in dataclasses.fields(schema) if field.name == name)


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config)


def _text(value: Any, raw: str | None, key: str) -> Any:
    """Return the value of a text field, if YAML has read the user's text as a number, a truth value or a mapping."""
    if value is None or isinstance(value, str):
        return value
    if raw is None:
        raise RecipeError(f"{key} is read by YAML as {show(value)}, which is no text; put it in quotes", key=key)
    return raw


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_text(hint: Any) -> bool:
    return str in _members(hint)


def words(hint: Any) -> str:
    """Return a type in words."""
    return " or ".join(_words(member) for member in _members(hint))


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) is list:
        return f"a list in brackets, each item {words(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return "a mapping"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    return plain.get(hint, "a value")
