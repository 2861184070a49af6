"""Load the rows that stages train on: read records, encode them as ChatML, cut them to length, report the result."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow.compute
from datasets import Dataset

from chatml import FIELDS, control
from config import RecipeError
from config.data import Data, Source
from engine.data import encoding
from engine.data.chatml_section import ChatML
from engine.data.encoding import Maker, Settings
from engine.data.mixture import mix_sources
from engine.data.prepare import prepare_rows
from engine.data.prompt_rows import PromptRows
from engine.data.report import Report, merge_reports


class Limit(NamedTuple):
    """The maximum length of a row in tokens, and the recipe key that sets it."""

    key: str
    tokens: int


def load_rows(
    make: Maker,
    sources: Sequence[Source],
    *,
    data: Data,
    chatml: ChatML,
    seed: int,
    tokenizer: Any,
    key: str,
    limit: Limit,
) -> tuple[Dataset, Report]:
    """Return the memory-mapped rows of a data key, and the report on its records.

    Args:
        make: what to make of a record (a function of engine.data.encoding): `conversations`, `texts`, `pairs` or
            `prompts`, of at most `limit` tokens, or `documents` or `questions`, which are not cut.
        sources: the sources of the data key.
        data: the recipe's section `data`.
        chatml: the recipe's section `chatml`.
        seed: for drawing rows from weighted sources.
        tokenizer: has the ChatML tokens.
        key: the data key, for messages.
        limit: the maximum length of a row.

    Raises RecipeError with file and line for a record that cannot be read, or with `key` if less than half of the
    records are kept.
    """
    _check_fields(data.fields)
    control(tokenizer)  # raises where the tokenizer lacks the ChatML tokens
    settings = Settings(
        chatml,
        data.fields,
        data.too_long,
        data.on_bad_record,
        limit.key,
        limit.tokens,
        document_end=data.document_end,
        roles=data.roles,
    )
    parts = [prepare_rows(make, source, settings, tokenizer, key) for source in sources]
    report = merge_reports(report for _, report in parts)
    report.check(key, limit.key)
    weighted = [(rows, source.weight) for (rows, _), source in zip(parts, sources, strict=True)]
    return mix_sources(weighted, seed), report


def load_prompts(sources: Sequence[Source], **settings: Any) -> tuple[PromptRows, Report]:
    """Return the prompts of a data key as PromptRows, and the report; `settings` are those of `load_rows`."""
    rows, report = load_rows(encoding.prompts, sources, **settings)
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


def _check_fields(fields: Mapping[str, str | None]) -> None:
    named = {theirs: ours for theirs, ours in fields.items() if ours is not None}
    for theirs, ours in named.items():
        if ours not in FIELDS:
            raise RecipeError(
                f"data.fields.{theirs} is {ours}; it must be one of {', '.join(FIELDS)}, or null to leave {theirs} out"
            )
    for one, other in pairwise(sorted(named.values())):
        if one == other:
            raise RecipeError(f"data.fields renames two fields to {one}; leave one of them out")
