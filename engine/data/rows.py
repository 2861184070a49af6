"""Records to the rows that stages train on: read, written as ChatML, cut to length, and accounted for.

Every function takes what a data key names (see `config.data.sources`), the stage's recipe and a tokenizer with the
ChatML tokens, and returns rows on disk, mapped into memory (`datasets.Dataset`), with a Report. They raise RecipeError:
with file and line for a record that cannot be read, with the key where less than half of the records can be kept.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

from datasets import Dataset

from chatml import FIELDS, control
from config import RecipeError
from config.data import Data, sources
from config.sections import ChatML, Run
from engine.data import encoding
from engine.data.encoding import Maker, Settings
from engine.data.mixture import mixed
from engine.data.prepare import prepared
from engine.data.report import Report, total


class Recipe(Protocol):
    """What decides, in every stage's recipe, how records become rows."""

    chatml: ChatML
    data: Data
    run: Run


def conversation_rows(
    value: Any, recipe: Recipe, tokenizer: Any, *, key: str, max_length: int
) -> tuple[Dataset, Report]:
    """Rows {"input_ids", "labels"} to train a causal model on, at most `max_length` tokens long; -100 is no loss.

    Records of plain text become rows as `text_rows` makes them.
    """
    return _rows(encoding.conversations, value, recipe, tokenizer, key, "data.max_length", max_length)


def text_rows(value: Any, recipe: Recipe, tokenizer: Any, *, key: str, max_length: int) -> tuple[Dataset, Report]:
    """Rows {"input_ids", "labels"} of documents, each ended by <|endoftext|>, trained on but for a row's first token.

    A document of more than `max_length` tokens is split into pieces of one length (or one less); nothing of it is lost.
    """
    return _rows(encoding.texts, value, recipe, tokenizer, key, "data.max_length", max_length)


def pair_rows(value: Any, recipe: Recipe, tokenizer: Any, *, key: str, max_length: int) -> tuple[Dataset, Report]:
    """Rows {"chosen_ids", "rejected_ids", "margin"} of comparisons, each side at most `max_length` tokens long.

    A side ends with its last answer's <|im_end|>, no newline after it. Pairs whose sides are equal are dropped.
    """
    return _rows(encoding.pairs, value, recipe, tokenizer, key, "data.max_length", max_length)


def prompt_rows(
    value: Any, recipe: Recipe, tokenizer: Any, *, key: str, max_prompt_tokens: int
) -> tuple[Dataset, Report]:
    """Rows {"input_ids", "messages", "record"} of what is to be answered, from records of any shape.

    `input_ids` end where the answer begins and are at most `max_prompt_tokens` long; `messages` are what is left after
    cutting, `record` is the record as it was read, both written as JSON.
    """
    return _rows(encoding.prompts, value, recipe, tokenizer, key, "data.max_prompt_tokens", max_prompt_tokens)


def _rows(
    make: Maker, value: Any, recipe: Recipe, tokenizer: Any, key: str, limit_key: str, limit: int
) -> tuple[Dataset, Report]:
    data = recipe.data
    _check_fields(data.fields)
    control(tokenizer)  # raises where the tokenizer lacks the ChatML tokens
    settings = Settings(recipe.chatml, data.fields, data.too_long, data.on_bad_record, limit_key, limit)
    named = sources(value, key)
    parts = [prepared(make, source, settings, tokenizer, key) for source in named]
    report = total(report for _, report in parts)
    report.check(key, limit_key)
    weights = [source.weight for source in named]
    return mixed([(rows, weight) for (rows, _), weight in zip(parts, weights, strict=True)], recipe.run.seed), report


def _check_fields(fields: Mapping[str, str]) -> None:
    for theirs, ours in fields.items():
        if ours not in FIELDS:
            raise RecipeError(f"data.fields.{theirs} is {ours}; it must be one of {', '.join(FIELDS)}")
    for one, other in pairwise(sorted(fields.values())):
        if one == other:
            raise RecipeError(f"data.fields makes two fields {one}; leave one of them out")
