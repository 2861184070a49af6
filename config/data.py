"""Data sections: what they have in common, and the sources of records that their keys name."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from omegaconf import MISSING

from config.schema import RecipeError, Section, number, show, validate
from config.sections import is_hub_id
from config.typed import Builder

TooLong = Literal["drop", "cut_oldest_turns", "cut_left", "error"]
OnBadRecord = Literal["error", "skip"]

DATA_SUFFIXES = (".json", ".jsonl", ".gz", ".zst", ".parquet", ".csv", ".txt")
SOURCES = "sources"


@dataclass(frozen=True)
class Source(Section):
    """Where records come from; one item of a data key."""

    path: str = MISSING
    """a file, a folder, a glob, or the hub id of a data set (owner/name)"""
    split: str = "train"
    """split of a hub data set"""
    name: str | None = None
    """configuration of a hub data set"""
    revision: str | None = None
    """branch, tag or commit of a hub data set"""
    weight: float = number(1.0, above=0)
    """how often its rows are drawn beside those of the other sources"""
    skip: int = number(0, least=0)
    """this many records at the front are left out"""
    take: int | None = number(None, least=1)
    """only this many records, after those that are skipped"""
    without_share: float | None = number(None, above=0, below=1)
    """all records but this share of them, chosen by a hash of the record: always the same ones, wherever they stand"""
    only_share: float | None = number(None, above=0, below=1)
    """only that share: what `without_share` leaves out"""

    @property
    def on_hub(self) -> bool:
        """Whether `path` is the id of a data set rather than something on this machine."""
        return is_hub_id(self.path) and not self.path.endswith(DATA_SUFFIXES)

    def check(self, key: str) -> None:
        if self.without_share is not None and self.only_share is not None:
            raise RecipeError(f"{key} has both without_share and only_share; leave one of them out", key=key)


def named_sources(default: Any = None) -> Any:
    """A field of a data section that names sources; without a default of its own it may be left empty."""
    return field(default=default, metadata={SOURCES: True})


@dataclass(frozen=True)
class Data(Section):
    """What the data sections of all stages have in common."""

    fields: dict[str, str] = field(default_factory=dict)
    """names in the records -> names that are known: {question: prompt, answer: response}"""
    too_long: TooLong = "cut_oldest_turns"
    """what happens to a record longer than the stage's limit: drop it, cut its oldest turns or its oldest tokens, or
    stop; of a comparison both sides are cut alike, and no answer is trained on without its end"""
    on_bad_record: OnBadRecord = "error"
    """what happens to a record that cannot be read: the run stops, or it is skipped and counted"""

    def check(self, key: str) -> None:
        for name in self.source_keys():
            sources(getattr(self, name), f"{key}.{name}")

    @classmethod
    def source_keys(cls) -> list[str]:
        """The names of the keys that name sources."""
        return [item.name for item in dataclasses.fields(cls) if SOURCES in item.metadata]

    def sources(self, name: str) -> list[Source]:
        """The sources of one of those keys."""
        return sources(getattr(self, name), f"data.{name}")

    def inputs(self) -> Iterator[tuple[str, str]]:
        """(key, path) of the sources that have to be on this machine."""
        for name in self.source_keys():
            yield from data_inputs(self.sources(name), f"data.{name}")


@dataclass(frozen=True)
class TrainingData(Data):
    """The data section of a stage that trains on rows and measures on others."""

    train: Any = named_sources(MISSING)
    """what is trained on: a source or a list of them, see `config.data.Source`; conversations or plain text in
    finetuning, comparisons for a reward model"""
    eval: Any = named_sources()
    """what is measured besides, every `trainer.eval_steps`: sources, or a share of data.train (0.02, say), chosen by a
    hash of the record and then not trained on"""
    max_length: int = number(2048, least=16)
    """tokens in a conversation and in a packed row, or in one side of a comparison (report, 3.1.2 and 3.2.1: 2048)"""

    def check(self, key: str) -> None:
        share = self.eval_share
        if share is None:
            super().check(key)
            return
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
        """The share of the training records that is held out, where `eval` is one."""
        return self.eval if isinstance(self.eval, int | float) and not isinstance(self.eval, bool) else None

    def sources(self, name: str) -> list[Source]:
        share, part = self.eval_share, {"train": "without_share", "eval": "only_share"}.get(name)
        if share is None or part is None:
            return super().sources(name)
        return [dataclasses.replace(source, **{part: share}) for source in super().sources("train")]


def sources(value: Any, key: str) -> list[Source]:
    """What a data key names: a string, a mapping with the keys of `Source`, or a list of such; None names nothing.

    `owner/name:split` is short for a hub data set and its split. Raises RecipeError, naming `key`.
    """
    if value is None:
        return []
    if isinstance(value, list):
        if not value:
            raise RecipeError(f"{key} is an empty list; name at least one source", key=key)
        return [_source(item, f"{key}[{index}]") for index, item in enumerate(value)]
    return [_source(value, key)]


def data_inputs(named: list[Source], key: str) -> Iterator[tuple[str, str]]:
    """(key, path) of the sources that have to be on this machine."""
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
