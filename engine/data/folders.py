"""Select the data files of a folder: those of one file type and one split.

The split is inferred from names, as in `datasets`: from names like `data/SPLIT-00000-of-00002.parquet`, otherwise from
subfolders (`test/`), otherwise from file names (`test-0.jsonl`, `my_dev.csv`). Only the first of these that matches any
file is used; if none does, all files are `train`. Hidden files (`.git`, `__pycache__`) are ignored.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from config import RecipeError
from config.data import source_text
from engine.data.record_files import READABLE_FILES, READERS, file_kind

KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# Files beside the data that are not data themselves.
METADATA_FILES = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
DOCUMENTATION_FILES = re.compile(
    r"(readme|licen[cs]e|copying|notice|change(s|log)|citation|authors|contributors|requirements)([-_.].*)?\.txt", re.I
)
_SEPARATED = {
    split: re.compile(rf"(^|[-._ 0-9])({'|'.join(words)})([-._ 0-9]|$)", re.I) for split, words in KEYWORDS.items()
}
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*\..+")


class FolderFiles(NamedTuple):
    """The files of a folder that a source reads, and those that it does not read, sorted by path."""

    read: tuple[str, ...]
    left_out: tuple[str, ...]
    """paths, with the split if that is the reason"""


def select_files(folder: str, split: str) -> FolderFiles:
    """Return the data files of a split. Raises RecipeError if there are none, or files of several types."""
    inside = sorted(_inside(folder))
    data = [path for path in inside if _is_data(path)]
    others = [path for path in inside if not _is_data(path)]
    if not data:
        raise RecipeError(f"{folder}: the folder contains no data{_listed(others)}; {READABLE_FILES}")
    kinds = Counter(map(file_kind, data))
    if len({_group(kind) for kind in kinds}) > 1:
        counted = ", ".join(f"{number:,} {kind}" for kind, number in kinds.most_common())
        first, _ = kinds.most_common(1)[0]
        raise RecipeError(
            f"{folder}: the folder contains several file types ({counted}); select one with a glob, which reads every "
            f"file that it matches: {os.path.join(glob.escape(folder), '**', f'*{first}*')}"
        )
    splits = _splits(folder, data)
    read = tuple(path for path in data if splits[path] == split)
    if not read:
        raise RecipeError(f"{folder}: {_without(folder, split, splits)}, or select files with a glob")
    rest = [path if (other := splits[path]) is None else f"{path} (split {other})" for path in data if path not in read]
    return FolderFiles(read, (*others, *rest))


def _inside(folder: str) -> Iterable[str]:
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (os.path.join(here, name) for name in names if not name.startswith((".", "__")))


def _is_data(path: str) -> bool:
    name = os.path.basename(path)
    return file_kind(path) in READERS and name not in METADATA_FILES and not DOCUMENTATION_FILES.fullmatch(name)


def _group(kind: str) -> str:
    return ".json" if kind == ".jsonl" else kind


def _splits(folder: str, data: list[str]) -> dict[str, str | None]:
    """Return path → split; None for files whose names contain no split although other names do."""
    parts = {path: os.path.relpath(path, folder).split(os.sep) for path in data}
    for found in (
        {path: _shard_split(path) for path in data},
        {path: next(filter(None, map(_split, names[:-1])), None) for path, names in parts.items()},
        {path: _split(names[-1]) for path, names in parts.items()},
    ):
        if any(found.values()):
            return found
    return dict.fromkeys(data, "train")


def _shard_split(path: str) -> str | None:
    name = _SHARD.fullmatch(os.path.basename(path))
    return name[1] if name and os.path.basename(os.path.dirname(os.path.abspath(path))) == "data" else None


def _split(name: str) -> str | None:
    return next((split for split, pattern in _SEPARATED.items() if pattern.search(name)), None)


def _without(folder: str, split: str, splits: dict[str, str | None]) -> str:
    """Return the error message, with a way out, if no file belongs to `split`."""
    named = sorted(filter(None, set(splits.values())))
    if named == ["train"]:
        return f"all files belong to the split train; leave split: {split} out"
    there = ", ".join(named)
    return f"no file belongs to the split {split}, only to {there}; use {source_text(folder, named[0])}"


def _listed(others: list[str]) -> str:
    shown = [os.path.basename(path) for path in others[:5]] + (["..."] if len(others) > 5 else [])
    return f" ({', '.join(shown)})" if shown else ""
