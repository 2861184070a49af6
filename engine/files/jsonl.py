"""JSON Lines: files with one JSON object per line, written atomically or appended to, and repaired after a kill.

JSON has no NaN or infinity: non-finite numbers are written as null.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.files import durable

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """Return all complete rows, [] if the file does not exist. A partial last line, left by a kill, is ignored."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def read_and_repair(path: Path) -> list[Row]:
    """Return all complete rows, and remove a partial last line from the file so that it can be appended to."""
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    if rest:
        durable.write_text(path, "".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines]


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write rows to a file atomically, replacing its content."""
    durable.write_text(path, "".join(map(_line, rows)))


def append(path: Path, rows: Iterable[Row]) -> None:
    """Append rows in a single write, so that several processes may append to the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(map(_line, rows)))


def _line(row: Row) -> str:
    return json.dumps({key: _finite(value) for key, value in row.items()}, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
