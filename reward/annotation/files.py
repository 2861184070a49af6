"""JSON lines as the steps hand them on: written whole, or added to one by one and found again after a kill."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.files import durable


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    durable.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """What a file holds; a last line that a kill left half-written is taken out of it."""
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    if rest:
        durable.write_text(path, "".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines]


def add_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
