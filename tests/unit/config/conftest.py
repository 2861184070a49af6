"""Fixtures of the tests of recipes."""

from pathlib import Path

import pytest

from tests.support.paths import ROOT


@pytest.fixture
def at_root(monkeypatch):
    """Work in the root of the repository, with the tiny world in runs/tiny and MODEL set."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("TINY", "runs/tiny")
    monkeypatch.setenv("MODEL", "owner/name")


@pytest.fixture
def write_recipe(tmp_path):
    """Return a function that writes a recipe file and returns its path."""

    def write(text: str, name: str = "recipe.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write
