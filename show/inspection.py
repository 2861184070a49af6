"""The data under one key: its records, the rows that the stage makes of them, duplicates and overlaps."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from chatml import Pair
from config import RecipeError
from config.data import Source, sources
from engine.data import encoding, plain_text
from engine.data.report import Report
from engine.data.rows import Limit, RowLoader
from engine.data.sources import read_source
from show.duplicates import NearDuplicate, exact_duplicates, near_duplicates
from show.overlap import EvaluationSet, evaluation_set
from show.recipe import TRAINED_ON, Show, is_texts
from show.records import PROMPT_KEYS, Record, read_records

Row = dict[str, Any]


@dataclass(frozen=True)
class Portion:
    """One of several sources of a data key."""

    source: Source
    report: Report | None
    """None if the stage could not run with this source alone"""

    @property
    def tokens_drawn(self) -> float:
        """Tokens in its rows times the weight of the source."""
        return self.report.tokens * self.source.weight if self.report else 0


@dataclass(frozen=True)
class Inspection:
    """The data under one key."""

    key: str
    recipe: Show
    tokenizer: PreTrainedTokenizerBase
    sources: list[Source]
    records: list[Record]
    """all records, each once, whatever the weight of its source"""
    rows: list[Row]
    report: Report | None
    """None if the stage would stop with the error `problem`; `rows` is empty then"""
    problem: str
    portions: list[Portion]
    """empty for a single source"""
    evaluations: list[EvaluationSet]
    """evaluation sets that the records should not overlap with"""

    @cached_property
    def readable(self) -> list[Record]:
        return [record for record in self.records if record.content is not None]

    @cached_property
    def exact_duplicates(self) -> dict[int, int]:
        """Index -> first index with the same content, among the readable records."""
        return exact_duplicates(map(repr, (record.content for record in self.readable)))

    @cached_property
    def near_duplicates(self) -> list[NearDuplicate]:
        """Near duplicates among the readable records, without exact duplicates."""
        once = [index for index in range(len(self.readable)) if index not in self.exact_duplicates]
        found = near_duplicates([self.readable[index].texts for index in once])
        return [NearDuplicate(once[near.record], once[near.other], near.similarity) for near in found]

    @property
    def limit(self) -> Limit:
        """The key that limits the length of a row, and its value in tokens."""
        data = self.recipe.data
        if self.key == "pretrain":
            return Limit("data.pretrain_length", data.pretrain_length)
        if self.key in PROMPT_KEYS:
            return Limit("data.max_prompt_tokens", data.max_prompt_tokens)
        return Limit("data.max_length", data.max_length)

    @property
    def of_pairs(self) -> bool:
        return bool(self.readable) and all(isinstance(record.content, Pair) for record in self.readable)

    @property
    def of_texts(self) -> bool:
        return bool(self.readable) and all(isinstance(record.content, str) for record in self.readable)


def inspect_key(recipe: Show, key: str, named: list[Source], tokenizer: PreTrainedTokenizerBase) -> Inspection:
    """Read and encode the sources of a data key. Raise RecipeError if a source cannot be read or has no records."""
    data, parse_text = recipe.data, recipe.chatml.parse_text
    found = [item for source in named for item in read_source(source, data.document_end, data.fields)]
    records = read_records(found, key, data.fields, data.roles, parse_text=parse_text)
    if not records:
        raise RecipeError(f"data.{key}: no records; name a source that has some")
    against = sources(recipe.show.against, "show.against") if key in TRAINED_ON else []
    evaluations = [_evaluation_set(source, recipe) for source in against if source not in named]
    seen = Inspection(key, recipe, tokenizer, named, records, [], None, "", [], evaluations)
    try:
        rows, report = stage_rows(seen, named)
    except RecipeError as error:
        return dataclasses.replace(seen, problem=str(error))
    portions = [Portion(source, _report_of(seen, source)) for source in named] if len(named) > 1 else []
    return dataclasses.replace(seen, rows=rows.to_list(), report=report, portions=portions)


def stage_rows(seen: Inspection, named: list[Source]) -> tuple[Dataset, Report]:
    """Return the rows that the stage makes of these sources. Raise RecipeError where the stage would stop."""
    if seen.limit.key == "data.max_prompt_tokens":
        make = encoding.prompts
    elif is_texts(seen.key):
        make = plain_text.texts
    else:
        make = encoding.pairs if seen.of_pairs else encoding.conversations
    recipe = seen.recipe
    loader = RowLoader(recipe.data, recipe.chatml, recipe.run.seed, seen.tokenizer)
    return loader.load(make, seen.key, seen.limit, named)


def _evaluation_set(source: Source, recipe: Show) -> EvaluationSet:
    part = f"{source.only_share:g} of " if source.only_share else ""
    records = read_source(source, recipe.data.document_end, recipe.data.fields)
    return evaluation_set(part + source.path, ((where, found) for where, found in records if isinstance(found, dict)))


def _report_of(seen: Inspection, source: Source) -> Report | None:
    try:
        return stage_rows(seen, [source])[1]
    except RecipeError:
        return None
