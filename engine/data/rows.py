"""Records to the rows that stages train on: read, written as ChatML, cut to length, and accounted for."""

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
from engine.data.mixture import mixed
from engine.data.prepare import prepared
from engine.data.prompt_rows import PromptRows
from engine.data.report import Report, total


class Limit(NamedTuple):
    """The longest a row may be: what a record that is too long is compared with, and which key to raise."""

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
    """Return the rows of a data key, on disk and mapped into memory, and the account of what became of its records.

    `make` (one of engine.data.encoding) says what a row is: `conversations`, `texts`, `pairs` or `prompts`, all at most
    `limit` tokens long, or `documents` or `questions`, which are whole. `data` and `chatml` are the recipe's
    sections, `seed` draws from weighted sources, `tokenizer` has the ChatML tokens.

    Raises RecipeError: with file and line for a record that cannot be read, with `key` where less than half of the
    records can be kept.
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
    parts = [prepared(make, source, settings, tokenizer, key) for source in sources]
    report = total(report for _, report in parts)
    report.check(key, limit.key)
    weighted = [(rows, source.weight) for (rows, _), source in zip(parts, sources, strict=True)]
    return mixed(weighted, seed), report


def load_prompts(sources: Sequence[Source], **settings: Any) -> tuple[PromptRows, Report]:
    """As `load_rows` of prompts, with the rows typed."""
    rows, report = load_rows(encoding.prompts, sources, **settings)
    return PromptRows(rows), report


def longest_sequence(rows: Dataset) -> int:
    """Return the tokens of the longest sequence in rows, packed or not; of a pair the longer side counts.

    Rows that a source has, but that its weight leaves out, count as well.
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
            raise RecipeError(f"data.fields makes two fields {one}; leave one of them out")
