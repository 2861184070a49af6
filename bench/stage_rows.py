"""The rows that a recipe's stage makes of its data.train, for sides that train on them by other means."""

from typing import Any

from datasets import Dataset

from engine.data.encoding import Maker
from engine.data.rows import Limit, load_rows


def stage_rows(make: Maker, recipe: Any, tokenizer: Any) -> Dataset:
    """Rows of `recipe.data.train`, made by `make` as the recipe's sections say."""
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
