"""Data sets that the library `datasets` reads: those on the hub, and folders that `save_to_disk` wrote."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from config import RecipeError
from config.data import Source, source_text
from engine.data.json_files import Records
from engine.data.table_nulls import table_cleaner

# What save_to_disk writes beside the data: of a Dataset, and of a DatasetDict.
STATE, SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True)
class HubSet:
    """A split of a data set that `datasets` has loaded."""

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
        return self.rows._fingerprint

    def records(self, advance: Callable[[int], object]) -> Records:
        clean = table_cleaner(self.rows.features.arrow_schema, json_is_text=False)
        for number, record in enumerate(self.rows, start=1):
            advance(1)
            yield f"{self.name}:{number}", clean(record)


def on_hub(source: Source) -> HubSet:
    """Load a split of a data set on the hub. Raises RecipeError."""
    from datasets import load_dataset  # half a second, which processes that only read records need not wait for

    try:
        rows = load_dataset(source.path, source.name, split=source.split, revision=source.revision)
    except Exception as error:  # datasets raises a great many kinds, all of them about what was asked for
        raise RecipeError(
            f"{source.path}: neither a file here nor a data set that could be loaded from the hub ({_reason(error)})"
        ) from None
    return HubSet(f"{source.path}:{source.split}", rows)


def is_saved(folder: str) -> bool:
    """Return whether `save_to_disk` wrote a folder."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in (STATE, SPLITS))


def saved(source: Source) -> HubSet:
    """Load what `save_to_disk` wrote: a Dataset, or the source's split of a DatasetDict. Raises RecipeError."""
    from datasets import load_from_disk

    folder, left_out = source.path, ()
    if os.path.isfile(listed := os.path.join(folder, SPLITS)):
        with open(listed, encoding="utf-8") as file:
            names = json.load(file)["splits"]
        if source.split not in names:
            raise RecipeError(
                f"{folder}: a saved data set with the splits {', '.join(names)}, without {source.split}; "
                f"give {source_text(folder, names[0])}"
            )
        folder = os.path.join(folder, source.split)
        left_out = tuple(f"{source.path} (split {name})" for name in names if name != source.split)
    try:
        rows = load_from_disk(folder)
    except Exception as error:  # pyarrow, json and datasets each have their own
        raise RecipeError(
            f"{folder}: not a complete data set of save_to_disk ({_reason(error)}); save it again"
        ) from None
    if folder == source.path and source.split not in ("train", str(rows.split)):
        raise RecipeError(f"{folder}: one saved data set, not split; leave split: {source.split} out")
    return HubSet(folder, rows, left_out)


def _reason(error: Exception) -> str:
    line = (str(error).strip().splitlines() or ["no reason given"])[0].rstrip(".")
    return f"{type(error).__name__}: {line}"
