"""Data sets that are read with the library `datasets`: on the hub, or in folders written by `save_to_disk`."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from config import RecipeError
from config.data import Source, source_text
from engine.compat import table_fingerprint
from engine.data.json_files import Records
from engine.data.table_nulls import table_cleaner

# Files that save_to_disk writes for a Dataset and for a DatasetDict.
STATE, SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True)
class HubSet:
    """A split of a data set, loaded by `datasets`; a `Place` (engine/data/sources.py)."""

    name: str
    rows: Any
    left_out: tuple[str, ...] = ()

    @property
    def read(self) -> tuple[str, ...]:
        return (self.name,)

    @property
    def size(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return table_fingerprint(self.rows)

    def records(self, advance: Callable[[int], object]) -> Records:
        clean = table_cleaner(self.rows.features.arrow_schema, json_is_text=False)
        for number, record in enumerate(self.rows, start=1):
            advance(1)
            yield f"{self.name}:{number}", clean(record)


def load_from_hub(source: Source) -> HubSet:
    """Load a split of a data set on the hub. Raises RecipeError if that fails."""
    from datasets import load_dataset  # importing it takes half a second, and not all processes need it

    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # datasets raises many kinds, all caused by the request
        raise RecipeError(
            f"{source.path}: neither an existing file nor a data set that can be loaded from the hub ({_reason(error)})"
        ) from None
    return HubSet(f"{source.path}:{source.split}", rows)


def is_saved_set(folder: str) -> bool:
    """Return whether a folder was written by `save_to_disk`."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in (STATE, SPLITS))


def load_saved(source: Source) -> HubSet:
    """Load a folder written by `save_to_disk`: a Dataset, or the source's split of a DatasetDict.

    Raises RecipeError if the split does not exist or the folder is incomplete.
    """
    from datasets import load_from_disk

    folder = source.path
    left_out: tuple[str, ...] = ()
    if os.path.isfile(listed := os.path.join(folder, SPLITS)):
        with open(listed, encoding="utf-8") as file:
            names = json.load(file)["splits"]
        if source.split not in names:
            raise RecipeError(
                f"{folder}: a saved data set with the splits {', '.join(names)}, without {source.split}; "
                f"use {source_text(folder, names[0])}"
            )
        folder = os.path.join(folder, source.split)
        left_out = tuple(f"{source.path} (split {name})" for name in names if name != source.split)
    try:
        rows = load_from_disk(folder)
    except Exception as error:  # pyarrow, json and datasets raise different kinds
        raise RecipeError(
            f"{folder}: not a complete data set written by save_to_disk ({_reason(error)}); save it again"
        ) from None
    if folder == source.path and source.split not in ("train", str(rows.split)):
        raise RecipeError(f"{folder}: a saved data set without splits; leave split: {source.split} out")
    return HubSet(folder, rows, left_out)


def _reason(error: Exception) -> str:
    line = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    return f"{type(error).__name__}: {line}"
