"""Build typed sections from plain values. OmegaConf converts the values; errors name the key as the user wrote it.

Values are set one by one, so that the wrong key is always known. OmegaConf's own errors have several lines and do not
always name the key.
"""

import dataclasses
import difflib
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from config.schema import NAMES, WHOLE, RecipeError, Section, join, show

# Names that other tools give to keys -> the names here.
OTHER_NAMES = {
    "lr": "learning_rate",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "scheduler": "lr_scheduler_type",
    "max_seq_length": "max_length",
    "output_dir": "dir",
    "lora_r": "r",
    "lora_rank": "r",
}
SectionT = TypeVar("SectionT", bound=Section)


class Builder(Generic[SectionT]):
    """Collects values for the section at `key` of a recipe ("" for the recipe itself)."""

    def __init__(self, schema: type[SectionT], key: str = "") -> None:
        self.schema, self.key = schema, key
        self.config = OmegaConf.structured(schema)
        self.others: set[str] = set()

    def allow(self, names: Collection[str]) -> None:
        """Accept these names in addition to the schema's; interpolations can use them, `build` leaves them out."""
        self.others |= set(names)

    def set(self, path: tuple[str, ...], value: Any, raw: str | None = None) -> None:
        """Set the value at `path`.

        A mapping is merged into a section, and into a mapping field unless it was declared with
        `config.schema.whole_mapping`. Any other value, lists included, replaces the earlier one. `raw` is the original
        text of an override: text fields use it, so that `01` stays `01`.

        Raise RecipeError for an unknown key and for a value of the wrong type.
        """
        self._set(self.config, self.schema, self.key, path, value, raw)

    def missing(self) -> list[str]:
        """Return the mandatory keys without a value."""
        return list(_missing(self.config, self.schema, self.key))

    def build(self) -> SectionT:
        """Return the frozen dataclass with resolved interpolations. Raise RecipeError if one cannot be resolved."""
        try:
            return _instance(self.schema, to_dict(self.config, resolve=True))
        except OmegaConfBaseException as error:
            key = join(self.key, error.full_key or "")
            reason = str(error).splitlines()[0].rpartition("resolving interpolation: ")[2].strip('"')
            if unset := re.fullmatch("Environment variable '(.+)' not found", reason):
                raise RecipeError(
                    f"{key} is the environment variable {unset[1]}, which is not set; give {unset[1]}=VALUE to make, "
                    f"or {key}=VALUE in ARGS",
                    key=key,
                ) from None
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
                _assign(config, ".".join(path), value, Any, ".".join(path), merge=True)
            return
        if name not in hints:
            raise RecipeError(
                f"unknown key {join(key, '.'.join(path))}; {self._nearest(schema, key, name)}", key=full_key
            )
        if is_section(hints[name]):
            self._set(config[name], hints[name], full_key, rest, value, raw)
        elif get_origin(hints[name]) is dict and len(rest) == 1:
            _assign(config, name, {**to_dict(config[name]), rest[0]: value}, hints[name], join(full_key, rest[0]))
        elif rest:
            whole = join(full_key, rest[0]) if get_origin(hints[name]) is dict else full_key
            raise RecipeError(
                f"{join(full_key, '.'.join(rest))} is not a separate key; set {whole} as a whole", key=whole
            )
        elif get_origin(hints[name]) is dict and isinstance(value, Mapping):
            references = _metadata(schema, name).get(WHOLE)
            before = to_dict(config[name]) if references is None else {}
            _assign(config, name, {**before, **value}, hints[name], full_key)
            for other in references or ():
                if raw is not None and config[other] not in value:
                    _assign(config, other, None, hints[other], join(key, other))
        else:
            if get_origin(hints[name]) is list and isinstance(value, str) and "${" not in value:
                value = [value]  # A single name is accepted as a list of one.
            _assign(
                config, name, _as_text(value, raw, full_key) if _is_text(hints[name]) else value, hints[name], full_key
            )

    def _nearest(self, schema: type[Section], key: str, name: str) -> str:
        """Return the hint for an unknown key: the key that was probably meant, else all keys of the section."""
        known = [*all_keys(self.schema, self.key), *_open_keys(self.schema)]
        other = OTHER_NAMES.get(name, name)
        # A key called so, a key that other tools call so, or keys of several kinds: policy_learning_rate.
        ends = (f".{name}", f".{other}", f"_{other}")
        everywhere = next(filter(None, ([full for full in known if full.endswith(end)] for end in ends)), [])
        here = [join(key, near) for near in nearest(name, field_types(schema))]
        if meant := everywhere or here:
            return f"did you mean {' or '.join(meant)}?"
        return f"{key or 'the recipe'} has {', '.join(field_types(schema))}"


def field_types(schema: type[Section]) -> dict[str, Any]:
    """Return name -> type of every field, without class variables."""
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema)}


def all_keys(schema: type[Section], key: str = "") -> Iterator[str]:
    """Yield every full key of a schema, depth first."""
    for name, hint in field_types(schema).items():
        yield join(key, name)
        if is_section(hint):
            yield from all_keys(hint, join(key, name))


def _open_keys(schema: type[Section]) -> Iterator[str]:
    """Yield the full keys in a recipe's mappings whose keys another library defines."""
    for field in dataclasses.fields(schema):
        if NAMES in field.metadata:
            yield from (join(field.name, name) for name in field.metadata[NAMES]())


def is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Section)


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return a list with the known name most similar to `name`; an empty list if none is similar."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)


def _missing(config: DictConfig, schema: type[Section], key: str) -> Iterator[str]:
    for name, hint in field_types(schema).items():
        if is_section(hint):
            yield from _missing(config[name], hint, join(key, name))
        elif OmegaConf.is_missing(config, name):
            yield join(key, name)


def _instance(schema: type[SectionT], values: Mapping[str, Any]) -> SectionT:
    """Return the dataclass with these values, ignoring names that it does not have."""
    hints = field_types(schema)
    return schema(
        **{name: _instance(hint, values[name]) if is_section(hint) else values[name] for name, hint in hints.items()}
    )


def _assign(config: DictConfig, name: str, value: Any, hint: Any, key: str, *, merge: bool = False) -> None:
    """Convert a value to the type of a field and set it. Raise RecipeError, naming `key`."""
    wrong = RecipeError(f"{key} is {show(value)}; it must be {describe_type(hint)}", key=key)
    if hint is bool and isinstance(value, int | float) and not isinstance(value, bool):
        raise wrong  # OmegaConf accepts any number as a boolean.
    try:
        with read_write(config):
            OmegaConf.update(config, name, value, merge=merge)
    except GrammarParseError:
        raise RecipeError(
            f"{key} is {show(value)}, which is not a valid interpolation; write \\${{ for a literal ${{",
            key=key,
        ) from None
    except (OmegaConfBaseException, TypeError, ValueError):
        raise wrong from None


def _metadata(schema: type[Section], name: str) -> Mapping[str, Any]:
    return next(field.metadata for field in dataclasses.fields(schema) if field.name == name)


def to_dict(config: DictConfig | ListConfig, *, resolve: bool = False) -> dict[str, Any]:
    """Return a mapping of OmegaConf as nested dicts and lists, with its interpolations resolved or as they are."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def _as_text(value: Any, raw: str | None, key: str) -> Any:
    """Return the value of a text field: the original text if YAML has parsed it as a number, a boolean or a mapping."""
    if value is None or isinstance(value, str):
        return value
    if raw is None:
        raise RecipeError(f"{key} is read by YAML as {show(value)}, which is not text; put it in quotes", key=key)
    return raw


def _members(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_text(hint: Any) -> bool:
    return str in _members(hint)


def describe_type(hint: Any) -> str:
    """Return a type in words, for `--help` and error messages."""
    return " or ".join(_describe_member(member) for member in _members(hint))


def _describe_member(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) is list:
        return f"a list in brackets, each item {describe_type(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return "a mapping"
    plain = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    return plain.get(hint, "a value")
