"""Imports point down only: stages -> engine -> chatml, recipes. Stages never meet, and nothing imports tiny."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

STAGES = ("sft", "reward", "ppo", "eval")
OURS = {*STAGES, "engine", "chatml", "recipes", "tiny", "tests", "bench", "plan"}
# Package -> the packages of ours that it may import besides itself.
MAY_IMPORT = {
    "recipes": set(),
    "chatml": set(),
    "tiny": {"chatml"},
    "engine": {"chatml", "recipes"},
    **{stage: {"engine", "chatml", "recipes"} for stage in STAGES},
    "plan": {"sft", "reward", "ppo", "engine", "chatml", "recipes"},
    "bench": {*STAGES, "plan", "engine", "chatml", "recipes"},
}
# Slow to import, and not to be imported before a recipe is known to be good.
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
LIGHT_FILES = ("recipes/*.py", "chatml/*.py", *(f"{stage}/{name}.py" for stage in (*STAGES, "eval/show") for name in
                                                ("__init__", "__main__", "recipe")),
               *(f"plan/{name}.py" for name in ("__init__", "__main__", "recipe", "hardware")))  # fmt: skip


def imported(nodes: Iterator[ast.AST]) -> Iterator[tuple[int, str]]:
    """(line, top-level package) of every absolute import among `nodes`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write it out from the root"
            yield node.lineno, node.module.partition(".")[0]


def at_module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs when the module is imported: nothing inside functions or under `if __name__ == "__main__"`."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        is_main = isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not is_main:
            pending.extend(ast.iter_child_nodes(node))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_what_lies_below_it(package):
    forbidden = OURS - MAY_IMPORT[package] - {package}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for line, name in imported(ast.walk(parsed(path)))
        if name in forbidden
    ]
    assert not wrong


def test_a_plan_knows_stages_by_their_recipes_alone():
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {node.module}"
        for path in (ROOT / "plan").rglob("*.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in STAGES
        and node.module.split(".")[1:] != ["recipe"]
    ]  # fmt: skip
    assert not wrong


def test_what_runs_before_the_recipe_is_checked_imports_nothing_heavy():
    files = [path for pattern in LIGHT_FILES for path in ROOT.glob(pattern)]
    assert {"config/loader.py", "sft/recipe.py", "ppo/__main__.py", "show/recipe.py"} <= {
        str(path.relative_to(ROOT)) for path in files
    }
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imported(at_module_level(parsed(path)))
        if name in HEAVY
    ]
    assert not wrong


def test_nothing_at_the_root_but_the_packages():
    """A module beside the packages would be outside of every rule above."""
    assert not list(ROOT.glob("*.py"))
    folders = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert folders <= OURS


def test_these_tests_see_an_import_wherever_it_stands():
    tree = ast.parse(
        "import torch.nn\n"
        "def late():\n    from tiny.gold import score\n"
        "class Held:\n    import peft\n"
        "if __name__ == '__main__':\n    import trl\n"
    )
    assert sorted(imported(ast.walk(tree))) == [(1, "torch"), (3, "tiny"), (5, "peft"), (7, "trl")]
    assert sorted(imported(at_module_level(tree))) == [(1, "torch"), (5, "peft")]
