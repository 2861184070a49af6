"""The rows that a stage prepares from data.train, for other trainers to train on."""

from typing import Any

from datasets import Dataset

from engine.data.reading import Maker
from engine.data.rows import Limit, RowLoader


def stage_rows(make: Maker, recipe: Any, tokenizer: Any) -> Dataset:
    """Return the tokenised rows of `recipe.data.train`, prepared by `make` with the recipe's settings."""
    loader = RowLoader(recipe.data, recipe.chatml, recipe.run.seed, tokenizer)
    return loader.load(make, "train", Limit("data.max_length", recipe.data.max_length))[0]
