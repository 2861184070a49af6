"""Data sections: their common keys, and the sources of records that their keys name."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
    """Where records come from: one item of a data key."""

    path: str = MISSING
    """a file, a folder (of data files, or written by save_to_disk), a glob, or the hub id of a data set (owner/name)"""
    split: str = "train"
    """split of a hub data set or of a folder"""
    name: str | None = None
    """configuration of a hub data set"""
    revision: str | None = None
    """branch, tag or commit of a hub data set"""
    weight: float = number(1.0, above=0)
    """how often its rows are drawn, relative to those of the other sources"""
    skip: int = number(0, least=0)
    """leave out this many records at the front"""
    take: int | None = number(None, least=1)
    """only this many records, after those that are skipped"""
    without_share: float | None = number(None, above=0, below=1)
    """leave out this share of the records, chosen by a hash of each: always the same ones, whatever their order"""
    only_share: float | None = number(None, above=0, below=1)
    """take only the share that `without_share` would leave out"""

    @property
    def on_hub(self) -> bool:
        """Whether `path` is the id of a data set on the hub and not a path on this machine."""
        return is_hub_id(self.path) and not self.path.endswith(DATA_SUFFIXES)

    def check(self, key: str) -> None:
        if self.without_share is not None and self.only_share is not None:
            raise RecipeError(f"{key} has both without_share and only_share; leave one of them out", key=key)


def named_sources(default: Any = None) -> Any:
    """Return a field of a data section that names sources; without `default` it may be left empty."""
    return field(default=default, metadata={SOURCES: True})


@dataclass(frozen=True)
class Data(Section):
    """The common keys of all data sections."""

    fields: dict[str, str | None] = field(default_factory=dict)
    """names in the records -> names that are read: {question: prompt, answer: response}; null: the field is not read,
    as {prompt: null} beside whole conversations in `messages`"""
    roles: dict[str, str] = field(default_factory=dict)
    """role names in the records -> system, user, assistant or tool: {developer: system, model: assistant}"""
    document_end: str | None = None
    """what stands between the documents of plain text, as <|endoftext|>: text is split there, and the mark itself is
    not read"""
    too_long: TooLong = "cut_oldest_turns"
    """what to do with a record longer than the stage's limit: drop it, cut its oldest turns or its oldest tokens, or
    stop; both sides of a comparison are cut alike, and no answer is trained on without its end"""
    on_bad_record: OnBadRecord = "error"
    """what to do with a record that cannot be read: stop the run, or skip and count it"""

    def check(self, key: str) -> None:
        self.check_reading(key)
        for name in self.source_keys():
            sources(getattr(self, name), f"{key}.{name}")

    def check_reading(self, key: str) -> None:
        """Raise RecipeError for a mistake in how records are read."""
        for theirs, ours in self.roles.items():
            if ours not in ROLES:
                place = f"{key}.roles.{theirs}"
                raise RecipeError(f"{place} is {show(ours)}; it must be one of {', '.join(ROLES)}", key=place)
        if self.document_end == "":
            key = f"{key}.document_end"
            raise RecipeError(f"{key} is empty; give the text that stands between documents, or null", key=key)

    @classmethod
    def source_keys(cls) -> list[str]:
        """Return the names of the keys that name sources."""
        return [item.name for item in dataclasses.fields(cls) if SOURCES in item.metadata]

    def sources(self, name: str) -> list[Source]:
        """Return the sources that one of those keys names."""
        return sources(getattr(self, name), f"data.{name}")

    def inputs(self) -> Iterator[tuple[str, str]]:
        """Yield (key, path) of the sources that must be on this machine."""
        for name in self.source_keys():
            yield from data_inputs(self.sources(name), f"data.{name}")


@dataclass(frozen=True)
class TrainingData(Data):
    """The data section of a stage that trains on some rows and evaluates on others."""

    train: Any = named_sources(MISSING)
    """training data: a source or a list of them; conversations or plain text in finetuning, comparisons for a reward
    model"""
    eval: Any = named_sources()
    """evaluated on every `trainer.eval_steps`: sources, or a share of data.train (0.02, say), chosen by a hash of the
    record and then not trained on"""
    max_length: int = number(2048, least=16)
    """tokens in a conversation and in a packed row, or in one side of a comparison (report, 3.1.2 and 3.2.1: 2048)"""

    def check(self, key: str) -> None:
        share = self.eval_share
        if share is None:
            super().check(key)
            return
        self.check_reading(key)
        if not 0 < share < 1:
            raise RecipeError(
                f"{key}.eval is {show(self.eval)}; a share of {key}.train must be above 0 and below 1",
                key=f"{key}.eval",
            )
        if any(source.without_share or source.only_share for source in sources(self.train, f"{key}.train")):
            raise RecipeError(
                f"{key}.eval is {show(self.eval)}, a share of {key}.train, which names a share of its own; "
                f"leave that out, or give {key}.eval a source",
                key=f"{key}.eval",
            )

    @property
    def eval_share(self) -> float | None:
        """The share of the training records that is held out; None if `eval` names sources, or nothing."""
        return self.eval if isinstance(self.eval, int | float) and not isinstance(self.eval, bool) else None

    def sources(self, name: str) -> list[Source]:
        share, part = self.eval_share, {"train": "without_share", "eval": "only_share"}.get(name)
        if share is None or part is None:
            return super().sources(name)
        return [dataclasses.replace(source, **{part: share}) for source in super().sources("train")]


def sources(value: Any, key: str) -> list[Source]:
    """Return the sources that a data key names: by a string, a mapping with the keys of `Source`, or a list of these.

    `owner/name:split` stands for a hub data set and its split; None names nothing. Raise RecipeError, naming `key`.
    """
    if value is None:
        return []
    if isinstance(value, list):
        if not value:
            raise RecipeError(f"{key} is an empty list; name at least one source", key=key)
        return [_source(item, f"{key}[{index}]") for index, item in enumerate(value)]
    return [_source(value, key)]


def source_text(path: str, split: str) -> str:
    """Return a source with a split as a recipe names it, the path in quotes where YAML needs them."""
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
