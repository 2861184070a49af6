"""The rows that a stage prepares from data.train, for other trainers to train on."""

from typing import Any

from datasets import Dataset

from engine.data.encoding import Maker
from engine.data.rows import Limit, load_rows


def stage_rows(make: Maker, recipe: Any, tokenizer: Any) -> Dataset:
    """Return the tokenised rows of `recipe.data.train`, prepared by `make` with the recipe's settings."""
    rows, _ = load_rows(
        make,
        recipe.data.sources("train"),
        data=recipe.data,
        chatml=recipe.chatml,
        seed=recipe.run.seed,
        tokenizer=tokenizer,
        key="data.train",
        limit=Limit("data.max_length", recipe.data.max_length),
    )
    return rows
