"""The examples of docs/python.md run in the page's order, and print what their comments say."""

import inspect
import os
import re

import pytest

from engine.files import jsonl
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "python.md"
EXPECTED = re.compile(r"^ *print\(.*\)  # (.+)$")


def blocks() -> list[tuple[int, str]]:
    """(line number of its first line, text) of the page's Python blocks."""
    found, start = [], None
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if line == "```python":
            start = number + 1
        elif line == "```" and start is not None:
            found.append((start, "\n".join(lines[start - 1 : number - 1])))
            start = None
    return found


@pytest.fixture
def tiny(mini, tmp_path, monkeypatch):
    """A folder like the repository's root after `make tiny`."""
    (tmp_path / "runs").mkdir()
    os.symlink(mini, tmp_path / "runs" / "tiny")
    os.symlink(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.delenv("TINY", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_examples_run_and_print_what_they_say(tiny):
    printed: dict[int, list[str]] = {}

    def note(*values: object) -> None:
        printed.setdefault(inspect.stack()[1].lineno, []).append(" ".join(map(str, values)))

    names = {"print": note, "__name__": "page"}
    for start, text in blocks():
        exec(compile("\n" * (start - 1) + text, str(PAGE), "exec"), names)
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    expected = {n: [match[1]] for n, line in enumerate(lines, 1) if (match := EXPECTED.match(line))}
    assert {n: printed[n] for n in expected} == expected
    assert len(expected) == 6

    said = [text for at in sorted(printed.keys() - expected.keys()) for text in printed[at]]
    assert "'<|im_start|>' masked" in said
    assert "'<|im_end|>' trained on" in said
    assert re.fullmatch(r"[+-]\d+\.\d\d \[[+-]\d+\.\d\d, [+-]\d+\.\d\d\], n = 8", said[-1])
    assert jsonl.read(tiny / "runs" / "notebook" / "metrics.jsonl")[-1]["step"] == 20
