"""The keys that all data sections share, and the sources of records."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from omegaconf import MISSING

from config.schema import RecipeError, Section, number, show, validate
from config.sections import is_hub_id
from config.typed import Builder

TooLong = Literal["drop", "cut_oldest_turns", "cut_left", "error"]
OnBadRecord = Literal["error", "skip"]
ROLES = ("system", "user", "assistant", "tool")

DATA_SUFFIXES = (".json", ".jsonl", ".gz", ".zst", ".parquet", ".csv", ".txt")
SOURCES = "sources"


@dataclass(frozen=True)
class Source(Section):
    """A source of records: one item of a data key."""

    path: str = MISSING
    """a file, a folder (of data files, or saved with save_to_disk), a glob, or the hub id of a data set (owner/name)"""
    split: str = "train"
    """split of a hub data set or of a folder"""
    name: str | None = None
    """configuration of a hub data set"""
    revision: str | None = None
    """branch, tag or commit of a hub data set"""
    fields: dict[str, str | None] = field(default_factory=dict, hash=False)
    """renames fields of this source's records, before `data.fields` does"""
    weight: float = number(1.0, above=0)
    """how often its rows are drawn, relative to those of the other sources"""
    skip: int = number(0, least=0)
    """skip this many records at the start"""
    take: int | None = number(None, least=1)
    """read only this many records, after the skipped ones; all by default"""
    without_share: float | None = number(None, above=0, below=1)
    """leave out this share of the records; a hash of each record decides, so their order does not matter"""
    only_share: float | None = number(None, above=0, below=1)
    """read only the records that `without_share` with the same number would leave out"""

    @property
    def on_hub(self) -> bool:
        """Whether `path` is the hub id of a data set rather than a path on this machine."""
        return is_hub_id(self.path) and not self.path.endswith(DATA_SUFFIXES)

    def check(self, key: str) -> None:
        if self.without_share is not None and self.only_share is not None:
            raise RecipeError(f"{key} has both without_share and only_share; leave one of them out", key=key)


def named_sources(default: Any = None) -> Any:
    """Return a dataclass field for a key that names sources; its default is None (no sources)."""
    return field(default=default, metadata={SOURCES: True})


@dataclass(frozen=True)
class Data(Section):
    """The keys that all data sections share."""

    SHARES: ClassVar[Mapping[str, str]] = {}
    """key of held-out data that may be a share (0.02) of another key's records -> that other key"""

    fields: dict[str, str | None] = field(default_factory=dict)
    """renames fields of the records: {question: prompt, answer: response}; null ignores a field, for example
    {prompt: null} if `messages` has the whole conversation"""
    roles: dict[str, str] = field(default_factory=dict)
    """renames roles in the records to system, user, assistant or tool: {developer: system, model: assistant}"""
    document_end: str | None = None
    """separator between documents of plain text, for example <|endoftext|>: text is split there, and the separator is
    removed"""
    too_long: TooLong = "cut_oldest_turns"
    """what to do with a record longer than the stage's limit: drop it, cut its oldest turns (cut_oldest_turns) or its
    oldest tokens (cut_left), or stop (error); both sides of a comparison are cut alike, and no answer is trained on
    without its end"""
    on_bad_record: OnBadRecord = "error"
    """what to do with a record that cannot be read: stop the run (error), or skip and count it (skip)"""

    def check(self, key: str) -> None:
        self.check_reading(key)
        for name in self.source_keys():
            share = self.share(name)
            if share is None:
                sources(getattr(self, name), f"{key}.{name}")
                continue
            whole = self.SHARES[name]
            if not 0 < share < 1:
                raise RecipeError(
                    f"{key}.{name} is {show(share)}; a share of {key}.{whole} must be above 0 and below 1",
                    key=f"{key}.{name}",
                )
            if any(part.without_share or part.only_share for part in sources(getattr(self, whole), f"{key}.{whole}")):
                raise RecipeError(
                    f"{key}.{name} is {show(share)}, a share of {key}.{whole}, which has without_share or only_share "
                    f"already; leave that out, or give {key}.{name} a source",
                    key=f"{key}.{name}",
                )

    def check_reading(self, key: str) -> None:
        """Raise RecipeError for a mistake in `roles` or `document_end`."""
        for theirs, ours in self.roles.items():
            if ours not in ROLES:
                place = f"{key}.roles.{theirs}"
                raise RecipeError(f"{place} is {show(ours)}; it must be one of {', '.join(ROLES)}", key=place)
        if self.document_end == "":
            key = f"{key}.document_end"
            raise RecipeError(f"{key} is empty; give the separator between documents, or null", key=key)

    @classmethod
    def source_keys(cls) -> list[str]:
        """Return the keys that name sources."""
        return [item.name for item in dataclasses.fields(cls) if SOURCES in item.metadata]

    def share(self, name: str) -> float | None:
        """Return the share of another key's records that the key `name` holds out; None if it names sources."""
        value = getattr(self, name)
        is_share = name in self.SHARES and isinstance(value, int | float) and not isinstance(value, bool)
        return value if is_share else None

    def sources(self, name: str) -> list[Source]:
        """Return the sources of the key `name`; of a key with a held-out share, those without that share."""
        for held, whole in self.SHARES.items():
            share = self.share(held)
            if share is not None and name in (held, whole):
                found = sources(getattr(self, whole), f"data.{whole}")
                if name == held:
                    return [dataclasses.replace(source, only_share=share) for source in found]
                return [dataclasses.replace(source, without_share=share) for source in found]
        return sources(getattr(self, name), f"data.{name}")

    def inputs(self) -> Iterator[tuple[str, str]]:
        """Yield (key, path) of the sources that must be on this machine."""
        for name in self.source_keys():
            yield from data_inputs(self.sources(name), f"data.{name}")


@dataclass(frozen=True)
class TrainingData(Data):
    """The data section of a stage that trains on some rows and evaluates on others."""

    SHARES: ClassVar[Mapping[str, str]] = {"eval": "train"}

    train: Any = named_sources(MISSING)
    """training data, a source or a list of sources: conversations or plain text for stage sft, comparisons for stage
    reward"""
    eval: Any = named_sources()
    """evaluation data, used every `trainer.eval_steps` steps: sources, or a share of data.train (for example 0.02),
    chosen by a hash of each record and not trained on"""
    max_length: int = number(2048, least=16)
    """limit in tokens of a conversation and of a packed row, or of one side of a comparison (report, 3.1.2 and 3.2.1:
    2048)"""


def sources(value: Any, key: str) -> list[Source]:
    """Return the sources in a data key: a string, a mapping with the keys of `Source`, a list of these, or None.

    `owner/name:split` is a hub data set and its split. Raise RecipeError, naming `key`.
    """
    if value is None:
        return []
    if isinstance(value, list):
        if not value:
            raise RecipeError(f"{key} is an empty list; name at least one source", key=key)
        return [_source(item, f"{key}[{index}]") for index, item in enumerate(value)]
    return [_source(value, key)]


def source_text(path: str, split: str) -> str:
    """Return a source with a split in YAML, for error messages; the path is quoted if necessary."""
    plain = re.fullmatch(r"[\w./-]+", path)
    return f"{{path: {path if plain else json.dumps(path, ensure_ascii=False)}, split: {split}}}"


def data_inputs(named: list[Source], key: str) -> Iterator[tuple[str, str]]:
    """Yield (key, path) of the sources that must be on this machine."""
    for source in named:
        if not source.on_hub:
            yield key, source.path


def _source(value: Any, key: str) -> Source:
    if isinstance(value, Source):
        return value
    if isinstance(value, Mapping):
        builder = Builder(Source, key)
        builder.set((), value)
        if builder.missing():
            raise RecipeError(f"{key} is {show(value)}, without a path; add path: FILE", key=key)
        source = builder.build()
        validate(source, key)
        return source
    if not isinstance(value, str) or not value.strip():
        raise RecipeError(
            f"{key} is {show(value)}; it must be a path, a hub id, or a mapping with the keys "
            f"{', '.join(item.name for item in dataclasses.fields(Source))}",
            key=key,
        )
    path, _, split = value.partition(":")
    return Source(path, split=split) if split and is_hub_id(path) else Source(value)
