"""Files that are either complete or absent: written under another name, synced, then renamed."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Force a file's or a folder's content to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Force a folder with everything in it to disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder's files to a new or empty folder. Raises OSError for the first one that cannot be copied."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        copy.mkdir() if path.is_dir() else shutil.copyfile(path, copy)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_folder(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a folder that then takes the place of `path`; a kill in between leaves `path` as it was."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_tree(partial)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)
    sync(path.parent)
