"""Load the rows that stages train on: read records, encode them as ChatML, cut them to length, report the result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow.compute
from datasets import Dataset

from chatml import FIELDS, control
from config import RecipeError
from config.data import Data, Source
from engine.data import encoding
from engine.data.chatml_section import ChatML
from engine.data.mixture import mix_sources
from engine.data.prepare import prepare_rows
from engine.data.prompt_rows import PromptRows
from engine.data.reading import Maker, Settings
from engine.data.report import Report, merge_reports


class Limit(NamedTuple):
    """The maximum length of a row in tokens, and the recipe key that sets it."""

    key: str
    tokens: int


@dataclass(frozen=True)
class RowLoader:
    """Loads the rows of a recipe's data keys."""

    data: Data
    """the recipe's section `data`"""
    chatml: ChatML
    """the recipe's section `chatml`"""
    seed: int
    """for drawing rows from weighted sources"""
    tokenizer: Any
    """has the ChatML tokens"""

    def load(
        self, make: Maker, name: str, limit: Limit, sources: Sequence[Source] | None = None
    ) -> tuple[Dataset, Report]:
        """Return the memory-mapped rows of a data key, and the report on its records.

        Args:
            make: what to make of a record: `conversations`, `pairs` or `prompts` of engine.data.encoding or `texts` of
                engine.data.plain_text, of at most `limit` tokens; or their `questions` or `documents`, which are not
                cut.
            name: the key in the section `data`.
            limit: the maximum length of a row.
            sources: the sources to read, if they are not those that the key names.

        Raises RecipeError with file and line for a record that cannot be read, or with the key if less than half of
        the records are kept.
        """
        data, key = self.data, f"data.{name}"
        if sources is None:
            sources = data.sources(name)
        _check_fields(data.fields, "data.fields")
        for source in sources:
            _check_fields(source.fields, f"{key}.fields")
        control(self.tokenizer)  # raises where the tokenizer lacks the ChatML tokens
        settings = Settings(
            self.chatml,
            data.fields,
            data.too_long,
            data.on_bad_record,
            limit.key,
            limit.tokens,
            document_end=data.document_end,
            roles=data.roles,
        )
        parts = [prepare_rows(make, source, settings, self.tokenizer, key) for source in sources]
        report = merge_reports(report for _, report in parts)
        report.check(key, limit.key)
        weighted = [(rows, source.weight) for (rows, _), source in zip(parts, sources, strict=True)]
        return mix_sources(weighted, self.seed), report

    def load_prompts(self, name: str, limit: Limit) -> tuple[PromptRows, Report]:
        """Return the prompts of a data key as PromptRows, and the report. Raises RecipeError as `load` does."""
        rows, report = self.load(encoding.prompts, name, limit)
        return PromptRows(rows), report


def longest_sequence(rows: Dataset) -> int:
    """Return the number of tokens of the longest sequence in rows, packed or not; of pairs the longer side counts.

    Rows of a source that its weight leaves out count as well.
    """
    if "seq_lengths" in rows.column_names:
        lengths = [pyarrow.compute.list_flatten(rows.data.column("seq_lengths"))]
    else:
        columns = [name for name in rows.column_names if name.endswith("_ids")]
        lengths = [pyarrow.compute.list_value_length(rows.data.column(name)) for name in columns]
    return max(pyarrow.compute.max(each).as_py() or 0 for each in lengths)


def _check_fields(fields: Mapping[str, str | None], key: str) -> None:
    named = {theirs: ours for theirs, ours in fields.items() if ours is not None}
    for theirs, ours in named.items():
        if ours not in FIELDS:
            raise RecipeError(
                f"{key}.{theirs} is {ours}; it must be one of {', '.join(FIELDS)}, or null to leave {theirs} out"
            )
    for one, other in pairwise(sorted(named.values())):
        if one == other:
            raise RecipeError(f"{key} renames two fields to {one}; leave one of them out")
