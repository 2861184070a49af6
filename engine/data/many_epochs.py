"""Warn of many epochs before any data is read. Imports no torch."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from config.data import TrainingData
from config.trainer import BATCH_DEFAULTS, MANY_EPOCHS

LIMIT = f"more than {MANY_EPOCHS} are rarely of use, which is our choice of a limit"


def many_epochs(trainer: Mapping[str, Any], data: TrainingData) -> Iterator[str]:
    """Yield a warning if a recipe's `trainer` section asks for many epochs over data.train, as far as is known.

    A recipe that counts steps is compared with the number of records: packed rows are fewer, so epochs are more.
    """
    steps, epochs = trainer.get("max_steps", -1), trainer.get("num_train_epochs", 3)
    if steps <= 0:
        if epochs > MANY_EPOCHS:
            yield f"trainer.num_train_epochs is {epochs:g}; {LIMIT}"
        return
    rows = math.prod(trainer.get(name, default) for name, default in BATCH_DEFAULTS.items())
    records = count_records(data)
    if records and (epochs := steps * rows / records) > MANY_EPOCHS:
        yield (
            f"{steps:,} steps of {rows:,} rows mean {epochs:,.0f} epochs or more over the {records:,} records of "
            f"data.train; {LIMIT}; lower trainer.max_steps, or name more data"
        )


def count_records(data: TrainingData) -> int | None:
    """Return the number of records of data.train.

    None if a source is not a JSON Lines file on this machine, or may be plain text, whose records can make many rows.
    """
    total = 0.0
    for source in data.sources("train"):
        if source.on_hub or not source.path.endswith(".jsonl") or not os.path.isfile(source.path):
            return None
        with open(source.path, "rb") as file:
            first = next((line for line in file if line.strip()), b"")
            count = 1 + sum(1 for line in file if line.strip())
        if may_be_text(first, {**data.fields, **source.fields}):
            return None
        count = max(count - source.skip, 0) if source.take is None else min(count, source.take)
        total += count * source.weight * (source.only_share or 1 - (source.without_share or 0))
    return round(total)


def may_be_text(line: bytes, fields: Mapping[str, Any]) -> bool:
    """Return whether a line may be a record of plain text, or no record at all."""
    try:
        record = json.loads(line)
    except ValueError:
        return True
    return not isinstance(record, dict) or any(fields.get(name, name) == "text" for name in record)
