"""requirements.txt names what is imported, with bounds; constraints.txt pins the tested versions, within the bounds."""

import ast
import re
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.support.paths import ROOT
from tests.unit.test_layers import OURS, imported, parsed

# Module -> package, where the names differ.
PACKAGES = {"yaml": "pyyaml"}
# Imported by what a user or a test asks for alone; docs/install.md.
OPTIONAL = {"bitsandbytes", "vllm"}


def lines_of(name: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


REQUIRED = {canonicalize_name(each.name): each for each in map(Requirement, lines_of("requirements.txt"))}
PINNED = {
    canonicalize_name(name): Version(number)
    for name, number in (line.split("==") for line in lines_of("constraints.txt"))
}


@pytest.mark.parametrize("name", REQUIRED)
def test_the_tested_version_is_within_the_bounds(name):
    assert PINNED[name] in REQUIRED[name].specifier


@pytest.mark.parametrize("name", REQUIRED)
def test_nothing_beyond_the_tested_release_is_accepted(name):
    """The upper bound is the next release after the tested one: the next minor or the next major."""
    (upper,) = (Version(each.version) for each in REQUIRED[name].specifier if each.operator == "<")
    major, minor = PINNED[name].major, PINNED[name].minor
    assert upper in (Version(f"{major}.{minor + 1}"), Version(f"{major + 1}"))
    assert any(each.operator == ">=" for each in REQUIRED[name].specifier)


def test_everything_that_is_imported_is_required():
    names = {
        name.split(".")[0]
        for package in OURS
        for path in (ROOT / package).rglob("*.py")
        for _, name in imported(ast.walk(parsed(path)))
    }
    foreign = names - OURS - OPTIONAL - set(sys.stdlib_module_names)
    assert {"torch", "yaml", "pytest"} <= foreign
    assert sorted(name for name in foreign if canonicalize_name(PACKAGES.get(name, name)) not in REQUIRED) == []


def test_these_tests_read_the_files():
    assert {"torch", "mypy", "huggingface-hub"} <= REQUIRED.keys() <= PINNED.keys()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines_of("constraints.txt"))
