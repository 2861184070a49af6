"""What tests of rows share: a recipe, records in files, conversations in few words."""

import json
from pathlib import Path
from typing import Any

import pytest

from config import RecipeError
from config.sections import ChatML, Run
from sft.recipe import SFT, Data
from tests.support.tokenizers import qwen

TRAIN = {"key": "data.train", "max_length": 64}
PROMPTS = {"key": "data.prompts", "max_prompt_tokens": 64}


def recipe(*, mask="assistant", tools="hermes", system=None, fields=None, seed=0, train="", **data):
    section = Data(train=train, fields=fields or {}, **data)
    return SFT(chatml=ChatML(mask=mask, tools=tools, system=system), data=section, run=Run(dir="", seed=seed))


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
