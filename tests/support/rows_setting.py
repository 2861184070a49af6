"""Helpers for tests of data rows: a recipe, loaders by kind of row, short conversations, and files of records."""

import json
from pathlib import Path
from typing import Any

import pytest

from config import RecipeError
from config.data import sources
from config.sections import Run
from engine.data import encoding, plain_text
from engine.data.chatml_section import ChatML
from engine.data.rows import Limit, RowLoader
from sft.recipe import SFT, Data
from tests.support.tokenizers import qwen


def conversation_rows(value, recipe, tokenizer, *, key, max_length):
    return _loaded(encoding.conversations, value, recipe, tokenizer, key, Limit("data.max_length", max_length))


def text_rows(value, recipe, tokenizer, *, key, max_length):
    return _loaded(plain_text.texts, value, recipe, tokenizer, key, Limit("data.max_length", max_length))


def document_rows(value, recipe, tokenizer, *, key, max_length):
    return _loaded(plain_text.documents, value, recipe, tokenizer, key, Limit("data.max_length", max_length))


def pair_rows(value, recipe, tokenizer, *, key, max_length):
    return _loaded(encoding.pairs, value, recipe, tokenizer, key, Limit("data.max_length", max_length))


def prompt_rows(value, recipe, tokenizer, *, key, max_prompt_tokens):
    limit = Limit("data.max_prompt_tokens", max_prompt_tokens)
    return _loaded(encoding.prompts, value, recipe, tokenizer, key, limit)


def _loaded(make, value, recipe, tokenizer, key, limit):
    """Load the rows of a data key's value with the sections of a recipe."""
    loader = RowLoader(recipe.data, recipe.chatml, recipe.run.seed, tokenizer)
    return loader.load(make, key.removeprefix("data."), limit, sources(value, key))


TRAIN = {"key": "data.train", "max_length": 64}
PROMPTS = {"key": "data.prompts", "max_prompt_tokens": 64}


def recipe(*, mask="assistant", tools="hermes", system=None, fields=None, seed=0, train="", **data):
    section = Data(train=train, fields=fields or {}, **data)
    chatml = ChatML(mask=mask, tools=tools, system=system)
    return SFT(stage="sft", chatml=chatml, data=section, run=Run(dir="", seed=seed))


def talk(*said: str) -> list[dict[str, Any]]:
    roles = ["user", "assistant"] * len(said)
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]


SHORT, LONG = talk("Hi", "Yes."), talk("a" * 40, "b" * 40, "Hi", "Yes.")
SYSTEM = {"role": "system", "content": "Be kind."}


def write_records(path: Path, *records: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def refusal(make, *args, **options) -> str:
    with pytest.raises(RecipeError) as error:
        make(*args, qwen(), **options)
    return str(error.value)
