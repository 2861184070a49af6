"""From plain values to typed sections: OmegaConf converts, and a mistake is told in the person's own words.

Values are set one by one, so that the key at fault is always known; OmegaConf's own errors run over several lines and
do not always name it.
"""

import difflib
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from config.schema import RecipeError, Section, join, show

SectionT = TypeVar("SectionT", bound=Section)


class Builder(Generic[SectionT]):
    """Collects values for a section that stands at `key` of a recipe ("" for the recipe itself)."""

    def __init__(self, schema: type[SectionT], key: str = "") -> None:
        self.schema, self.key = schema, key
        self.config = OmegaConf.structured(schema)

    def set(self, path: tuple[str, ...], value: Any, raw: str | None = None) -> None:
        """Puts `value` at `path`.

        A mapping is laid over a section, and over a field that is itself a mapping; everything else, lists too,
        replaces what was there. `raw` is the text an override was read from: a text field takes it as it stands, so
        that `01` stays `01`.

        Raises RecipeError for an unknown key and for a value of the wrong type.
        """
        self._set(self.config, self.schema, self.key, path, value, raw)

    def missing(self) -> list[str]:
        """The mandatory keys that have no value yet."""
        return list(_missing(self.config, self.schema, self.key))

    def build(self) -> SectionT:
        """The frozen dataclass, interpolations resolved. Raises RecipeError where one cannot be."""
        try:
            return OmegaConf.to_object(self.config)
        except OmegaConfBaseException as error:
            key = join(self.key, error.full_key or "")
            reason = str(error).splitlines()[0].rpartition("resolving interpolation: ")[2].strip('"')
            raise RecipeError(f"{key} cannot be resolved: {reason}", key=key) from None

    def _set(
        self, config: DictConfig, schema: type[Section], key: str, path: tuple[str, ...], value: Any, raw: str | None
    ) -> None:
        if not path:
            if not isinstance(value, Mapping):
                names = ", ".join(join(key, name) for name in get_type_hints(schema))
                raise RecipeError(f"{key} is {show(value)}, but it is a section; set its keys: {names}", key=key)
            for name, item in value.items():
                self._set(config, schema, key, (str(name),), item, None)
            return
        name, rest = path[0], path[1:]
        full_key, hints = join(key, name), get_type_hints(schema)
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
            _put(config, name, {**_plain(config[name]), **value}, hints[name], full_key)
        else:
            _put(config, name, _text(value, raw, full_key) if _is_text(hints[name]) else value, hints[name], full_key)

    def _nearest(self, schema: type[Section], key: str, name: str) -> str:
        """The way out of an unknown key: the one that was probably meant, else the keys there are."""
        everywhere = [full_key for full_key in all_keys(self.schema, self.key) if full_key.endswith(f".{name}")]
        here = [join(key, near) for near in nearest(name, get_type_hints(schema))]
        if meant := everywhere or here:
            return f"did you mean {' or '.join(meant)}?"
        return f"{key or 'the recipe'} has {', '.join(get_type_hints(schema))}"


def all_keys(schema: type[Section], key: str = "") -> Iterator[str]:
    """Every full key of a schema, depth first."""
    for name, hint in get_type_hints(schema).items():
        yield join(key, name)
        if is_section(hint):
            yield from all_keys(hint, join(key, name))


def is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Section)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known name that is most like `name`, or none."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)


def _missing(config: DictConfig, schema: type[Section], key: str) -> Iterator[str]:
    for name, hint in get_type_hints(schema).items():
        if is_section(hint):
            yield from _missing(config[name], hint, join(key, name))
        elif OmegaConf.is_missing(config, name):
            yield join(key, name)


def _put(config: DictConfig, name: str, value: Any, hint: Any, key: str) -> None:
    """Sets one field of a section, converted to its type."""
    wrong = RecipeError(f"{key} is {show(value)}; it must be {words(hint)}", key=key)
    if hint is bool and isinstance(value, int | float) and not isinstance(value, bool):
        raise wrong  # OmegaConf takes any number for a truth value.
    try:
        with read_write(config):
            OmegaConf.update(config, name, value, merge=False)
    except GrammarParseError:
        raise RecipeError(
            f"{key} is {show(value)}, which is no interpolation; write \\${{ where ${{ is meant as it stands",
            key=key,
        ) from None
    except (OmegaConfBaseException, TypeError, ValueError):
        raise wrong from None


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config)


def _text(value: Any, raw: str | None, key: str) -> Any:
    """What a text field gets where YAML made a number, a truth value or a mapping of the person's words."""
    if value is None or isinstance(value, str):
        return value
    if raw is None:
        raise RecipeError(f"{key} is read by YAML as {show(value)}, which is no text; put it in quotes", key=key)
    return raw


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the type alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_text(hint: Any) -> bool:
    return str in _members(hint)


def words(hint: Any) -> str:
    """A type in words."""
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
