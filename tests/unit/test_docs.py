"""The documentation: links, files, commands and recipe keys that it names exist."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from config.cli import rejoin_overrides
from config.describe import describe
from eval.recipe import Eval
from plan.recipe import PlanRecipe
from ppo.recipe import PPO
from reward.annotation.recipe import Candidates, GenerateCandidates, MakePairs, Prompts, SelectPrompts
from reward.recipe import Reward
from sft.recipe import SFT
from show.recipe import Show
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
README, CHANGELOG = ROOT / "README.md", ROOT / "CHANGELOG.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", CHANGELOG, *sorted(DOCS.glob("*.md"))]
README_CHARACTERS = 9_000
# Written by `make claims`.
GENERATED = {"claims.md"}

INLINE_CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# A file with or without a name in it: `config/cli.py:main`.
FILE = re.compile(r"((?:[\w.-]+/)+[\w.-]+\.(?:py|yaml|md))(?::(\w+))?")
MODULE = re.compile(r"python -m ([\w.]+)")
KEY = re.compile(r"([a-z]\w*(?:\.\w+)+)(?:[=:].*)?")
FILE_ENDINGS = (".json", ".jsonl", ".yaml", ".py")
MAKE = re.compile(r"(?:^|\$ |&& |; )(?:[A-Z_]+=\S+ )*make +(?:[A-Z_0-9]+=\S+ +)*([a-z][\w-]*)")

ANY_STAGE = (SFT, Reward, PPO, Eval, SelectPrompts, GenerateCandidates, MakePairs)
# Target -> the schemas of the recipes that it reads.
SCHEMAS = {
    **dict.fromkeys(("base", "sft"), (SFT,)),
    **dict.fromkeys(("pmp", "rm", "harmless"), (Reward,)),
    **dict.fromkeys(("eval", "report"), (Eval,)),
    "ppo": (PPO,),
    "show": (Show,),
    "plan": (SFT, Reward, PPO, PlanRecipe),
    "prompts": (SelectPrompts,),
    "candidates": (GenerateCandidates,),
    "pairs": (MakePairs,),
}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def split(page: Path) -> tuple[str, list[str]]:
    """Return a page's text without code blocks, and the lines of its code blocks (fenced or indented)."""
    text, code = [], []
    fenced, before = False, ""
    for line in read(page).splitlines():
        indented = line.startswith("    ") and (before == "" or before.startswith("    "))
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or indented:
            code.append(line.strip())
        else:
            text.append(line)
        before = line
    return "\n".join(text), code


def code_in(page: Path) -> list[str]:
    """Return the lines of a page's code blocks, and its inline code."""
    text, lines = split(page)
    return lines + INLINE_CODE.findall(text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", split(page)[0], re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (unique := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(unique)
    return found


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in LINK.findall(INLINE_CODE.sub("", split(page)[0])):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            broken.append(target)
    return broken


@cache
def keys_of(*schemas: type) -> set[str]:
    return {key.name for schema in schemas for key in describe(schema)}


def unknown(key: str, keys: set[str]) -> bool:
    """Return whether `key` is no field, no section, and no key inside a mapping field."""
    parts = key.split(".")
    is_section = any(name.startswith(f"{key}.") for name in keys)
    return not is_section and not any(".".join(parts[:length]) in keys for length in range(1, len(parts) + 1))


def is_module(name: str) -> bool:
    """Return whether `name` is a module of plumbline or a package that can be run."""
    path = ROOT / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__main__.py").exists()


def test_the_readme_is_short():
    assert len(read(README)) < README_CHARACTERS


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_anchors_exist(page):
    assert not broken_links(page)


def test_every_page_is_in_the_index():
    listed = re.findall(r"^- \[[^\]]+\]\(([\w.]+)\): \S", read(DOCS / "index.md"), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md") if path.name != "index.md")


@pytest.mark.parametrize("name", sorted({path.name for path in DOCS.glob("*.md")} - GENERATED - {"index.md"}))
def test_a_page_begins_with_a_command(name):
    assert re.match(r"# .+\n\n(?:    |```\w*\n)\S", read(DOCS / name))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_named_files_exist(page):
    packages = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"runs"}
    missing = []
    for code in code_in(page):
        for path, name in FILE.findall(code):
            file = ROOT / path
            if path.split("/")[0] not in packages:
                continue
            if not file.exists() or (name and not re.search(rf"\b{name}\b", read(file))):
                missing.append(f"{path}:{name}")
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_exist(page):
    phony = re.findall(r"^\.PHONY: (.*)$", read(ROOT / "Makefile"), re.MULTILINE)
    targets = {target for line in phony for target in line.split()}
    wrong = []
    for code in code_in(page):
        wrong += [f"make {target}" for target in MAKE.findall(code) if target not in targets]
        for module in MODULE.findall(code):
            is_package = (ROOT / module.partition(".")[0]).is_dir()
            if is_package and not is_module(module):
                wrong.append(module)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_overrides_of_commands_are_keys_of_their_stage(page):
    wrong = []
    for code in code_in(page):
        line = code.partition(" #")[0]
        found = MAKE.findall(line)
        if not found or found[0] not in SCHEMAS or 'ARGS="' not in line:
            continue
        words = shlex.split(line.removeprefix("$ "))
        given = next(word.removeprefix("ARGS=") for word in words if word.startswith("ARGS="))
        keys = keys_of(*SCHEMAS[found[0]])
        for override in rejoin_overrides(shlex.split(given)):
            key, equals, _ = override.partition("=")
            if equals and unknown(key, keys) and key != "ppo.kl_cof":  # the example of a mistake
                wrong.append(f"{found[0]}: {key}")
    assert not wrong


@pytest.mark.parametrize("page", [page for page in PAGES if page != CHANGELOG], ids=named)
def test_recipe_keys_exist(page):
    keys = keys_of(*ANY_STAGE, Show, PlanRecipe, Prompts, Candidates)
    sections = {key.partition(".")[0] for key in keys if "." in key}
    wrong = []
    for code in INLINE_CODE.findall(split(page)[0]):
        for word in code.split():
            match = KEY.fullmatch(word)
            if not match or match[1].endswith(FILE_ENDINGS) or is_module(match[1]):
                continue
            if match[1].partition(".")[0] in sections and unknown(match[1], keys):
                wrong.append(match[1])
    assert not wrong
