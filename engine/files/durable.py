"""Write files atomically: under a temporary name, synced to disk, then renamed. They are either complete or absent."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def sync(path: Path) -> None:
    """Sync the content of a file or folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Sync a folder and everything in it to disk."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder's content to a new or empty folder. Raises OSError if a file cannot be copied."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        copy.mkdir() if path.is_dir() else shutil.copyfile(path, copy)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_folder(path: Path, write: Callable[[Path], Any]) -> None:
    """Replace the folder `path` by one that `write` fills.

    `write` is called with a temporary folder, which is renamed to `path` when it is complete. If `write` raises, or the
    process is killed, `path` stays as it was. If the process is killed between the renaming of the old folder and that
    of the new one, the next call restores the old one first.
    """
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sync_tree(partial)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)
