"""Imports point down only, also between the rooms inside engine/ and eval/; no files import each other in a circle.

The order of the rooms is defined here, and drawn in docs/architecture.md.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

STAGES = ("sft", "reward", "ppo")
GROUND = {"engine", "chatml", "config"}
# Package -> the packages of ours that it may import besides itself.
MAY_IMPORT = {
    "config": set(),
    "chatml": set(),
    "sandbox": set(),
    "tiny": {"chatml"},
    "engine": {"chatml", "config"},
    **dict.fromkeys(STAGES, GROUND),
    "eval": GROUND,
    "show": {*STAGES, "eval", *GROUND},
    "release": GROUND,
    "plan": {*STAGES, *GROUND},
    "bench": {*STAGES, "eval", "plan", "release", "sandbox", *GROUND},
}
OURS = {*MAY_IMPORT, "tests"}
# Rooms from the top down: a file imports files of its own room and of the rooms after it.
ROOMS = {
    "engine": ("run", "scoring", "generation", "models", "forward", "data", "dist", "files", "compat", "errors"),
    "eval": ("report", ""),
}
# Slow to import, and not to be imported before the recipe has been checked.
HEAVY = {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
ENTRIES = ("__init__", "__main__", "recipe")
LIGHT_FILES = (
    "config/*.py",
    "chatml/*.py",
    "sandbox/*.py",
    *(f"{package}/{name}.py" for package in (*STAGES, "eval", "show", "plan", "release") for name in ENTRIES),
    "plan/hardware.py",
    "plan/choose.py",
    "release/chat.py",
    "release/chat_recipe.py",
    "reward/annotation/recipe.py",
    "ppo/choices.py",
    "engine/data/chatml_section.py",
    "engine/run/accelerate_config.py",
)


def imported(nodes: Iterator[ast.AST]) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every absolute import among `nodes`; both a and a.b for `from a import b`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write it out from the root"
            yield node.lineno, node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


def at_module_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that run on import: no function bodies, no blocks for `__main__` or TYPE_CHECKING."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        skipped = isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "TYPE_CHECKING")
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not skipped:
            pending.extend(ast.iter_child_nodes(node))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules(packages: Iterator[str] | tuple[str, ...] = tuple(MAY_IMPORT)) -> dict[str, Path]:
    """Return {dotted name: file} of every module in some packages."""
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports_of(path: Path) -> set[str]:
    return {name for _, name in imported(ast.walk(parsed(path)))}


def room_of(module: str) -> str | None:
    """Return the room of a module in ROOMS: "run" for engine.run.folder, "" for a file of eval/ outside its rooms."""
    package, *rest = module.split(".")
    rooms = ROOMS.get(package, ())
    if not rest or not rooms:
        return None
    return rest[0] if rest[0] in rooms else ""


def upward(edges: dict[str, set[str]]) -> list[str]:
    """Return the imports between rooms of one package that point up."""
    return [
        f"{module} imports {other}"
        for module, others in edges.items()
        for other in sorted(others)
        if module.split(".")[0] == other.split(".")[0]
        and (room := room_of(module)) is not None
        and (other_room := room_of(other)) is not None
        and (order := ROOMS[module.split(".")[0]]).index(other_room) < order.index(room)
    ]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected groups of two or more modules (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in edges[module]:
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                found.append(sorted(group))

    for module in edges:
        if module not in index:
            visit(module)
    return found


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    """Return {module: modules of ours that it imports anywhere in its file}."""
    known = modules()
    return {name: {other for other in imports_of(path) if other in known and other != name}
            for name, path in known.items()}  # fmt: skip


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_packages_below_it(package):
    forbidden = OURS - MAY_IMPORT[package] - {package}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / package).rglob("*.py")
        for name in imports_of(path)
        if name.split(".")[0] in forbidden
    ]
    assert not wrong


def test_rooms_import_only_rooms_below_them(edges):
    assert not upward(edges)


def test_engine_has_no_rooms_outside_the_list():
    """The rule above would not cover another folder or file in engine/."""
    names = {path.stem for path in (ROOT / "engine").iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert names == set(ROOMS["engine"])


def test_no_files_import_each_other_in_a_circle(edges):
    assert not circles(edges)


@pytest.mark.parametrize("package", ["plan", "show"])
def test_plan_and_show_import_only_the_recipes_of_stages(package):
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} imports {node.module}"
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom)
        if node.module.split(".")[0] in (*STAGES, "eval")
        if node.module.split(".")[-1] != "recipe"
    ]
    assert not wrong


def test_files_needed_to_check_a_recipe_import_no_heavy_package():
    files = [path for pattern in LIGHT_FILES for path in ROOT.glob(pattern)]
    assert {"config/loader.py", "sft/recipe.py", "ppo/__main__.py", "show/recipe.py"} <= {
        str(path.relative_to(ROOT)) for path in files
    }
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imported(at_module_level(parsed(path)))
        if name.split(".")[0] in HEAVY
    ]
    assert not wrong


def test_the_root_has_only_listed_packages():
    """The rules above would not cover a module or another package at the root."""
    assert not list(ROOT.glob("*.py"))
    folders = {path.parent.name for path in ROOT.glob("*/*.py")}
    assert folders <= OURS


def test_tests_mirror_the_tree():
    """A unit test lies in the folder of the package that it tests."""
    folders = {path.parent.relative_to(ROOT / "tests" / "unit") for path in ROOT.glob("tests/unit/**/test_*.py")}
    assert not [str(folder) for folder in folders if not (ROOT / folder).is_dir()]
    assert not list(ROOT.glob("tests/test_*.py"))


def test_imports_are_found_anywhere_in_a_file():
    tree = ast.parse(
        "import torch.nn\n"
        "def late():\n    from tiny.gold import score\n"
        "class Held:\n    import peft\n"
        "if __name__ == '__main__':\n    import trl\n"
        "if TYPE_CHECKING:\n    import datasets\n"
    )
    seen = sorted(imported(ast.walk(tree)))
    assert seen == [(1, "torch.nn"), (3, "tiny.gold"), (3, "tiny.gold.score"), (5, "peft"), (7, "trl"), (9, "datasets")]
    assert sorted(imported(at_module_level(tree))) == [(1, "torch.nn"), (5, "peft")]


def test_upward_imports_and_circles_are_found():
    assert upward(
        {"engine.data.rows": {"engine.run.folder", "engine.files.jsonl"}, "eval.answers": {"eval.report.page"}}
    ) == [
        "engine.data.rows imports engine.run.folder",
        "eval.answers imports eval.report.page",
    ]
    assert not upward({"engine.run.folder": {"engine.errors"}, "eval.report.page": {"eval.answers"}})
    circle = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}
    assert circles(circle) == [["a", "b", "c"]]
    assert not circles({"a": {"b"}, "b": set()})
