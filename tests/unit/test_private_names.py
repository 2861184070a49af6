"""Private names of libraries are used in engine/compat.py alone; what only tests need is in tests/support/compat.py.

A private name begins with one underscore: an attribute, a module, an imported name, a keyword argument.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from engine.compat import TRAINER_METHODS, mark_static_address
from tests.support.compat import counting_backend, is_static_input, launch_arguments, reset_accelerate, shared_state
from tests.support.paths import ROOT
from tests.unit.test_layers import MAY_IMPORT, OURS, parsed

PLACES = {ROOT / place / "compat.py" for place in ("engine", "tests/support")} | {
    ROOT / "tests/unit/engine/test_compat.py"
}
# Public in spite of the underscore: methods of named tuples, and os._exit.
PUBLIC = {"_replace", "_asdict", "_fields", "_make"}
REFLECTION = {"getattr", "hasattr", "setattr", "delattr"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined(tree: ast.Module) -> set[str]:
    """The private names that a file defines: functions, classes, parameters, variables and attributes of self."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            names.add(node.attr)
    return {name for name in names if is_private(name)}


def is_self(node: ast.expr) -> bool:
    is_super = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"
    return is_super or (isinstance(node, ast.Name) and node.id in ("self", "cls"))


def private_uses(tree: ast.Module, own: set[str], *, of_others: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of the private names that a file uses and that are not `own`.

    `of_others`: whether `own` names may also be used of objects other than self, as tests do.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, name) for name in imported_private(node))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            is_exit = ast.unparse(node) == "os._exit"
            known = node.attr in own and (of_others or is_self(node.value))
            trainers = node.attr in TRAINER_METHODS and is_self(node.value)
            if not (known or trainers or is_exit or node.attr in PUBLIC):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call):
            keywords = [each.arg for each in node.keywords if each.arg and is_private(each.arg)]
            yield from ((node.lineno, name) for name in keywords if name not in own)
            named = node.args[1] if len(node.args) > 1 and ast.unparse(node.func) in REFLECTION else None
            if isinstance(named, ast.Constant) and is_private(str(named.value)) and named.value not in own | PUBLIC:
                yield node.lineno, named.value


def imported_private(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Yield the dotted names with a private part that a statement imports from other libraries."""
    module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    for alias in node.names:
        name = f"{module}.{alias.name}" if module else alias.name
        if name.split(".")[0] not in OURS and any(map(is_private, name.split("."))):
            yield name


def found_in(paths: list[Path], own: set[str] | None = None) -> list[str]:
    """The private names that files use; without `own`, those that a file defines itself are its own."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in paths
        if path not in PLACES
        for line, name in private_uses(parsed(path), own or defined(parsed(path)), of_others=own is not None)
    ]


def files(packages: Iterable[str]) -> list[Path]:
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


def test_production_code_uses_no_private_name_of_a_library():
    assert len(files(MAY_IMPORT)) > 250
    assert found_in(files(MAY_IMPORT)) == []


def test_tests_use_no_private_name_of_a_library():
    """They may use ours, also of other objects than self."""
    ours = {name for path in files(OURS) for name in defined(parsed(path))}
    assert found_in(files(["tests"]), ours) == []


@pytest.mark.parametrize(
    "code",
    [
        "import torch._dynamo",
        "from torch._dynamo.exc import Error",
        "from torch.nn.modules.dropout import _DropoutNd",
        "model.config._attn_implementation",
        "model._buffers['a'] = b",
        "load(_raise=False)",
        "getattr(weight, '_mapping', None)",
        "class A(Trainer):\n    def run(self):\n        super()._run()",
        "class A(Trainer):\n    def run(self):\n        self._run()",
        "import os\nos._abort()",
    ],
)
def test_these_tests_see(code):
    tree = ast.parse(code)
    assert len(list(private_uses(tree, defined(tree), of_others=False))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "from engine.data.rows import _one",
        "class A:\n    def _run(self):\n        self._at = 1\n        return self._at + self._run()",
        "class A(Trainer):\n    def run(self):\n        super()._load_best_model()",
        "import os\nos._exit(1)",
        "last._replace(a=1)",
        "for _ in range(3): f(__name__)",
    ],
)
def test_these_tests_permit(code):
    tree = ast.parse(code)
    assert not list(private_uses(tree, defined(tree), of_others=False))


# What only tests use


def test_accelerate_keeps_a_shared_state_until_it_is_reset():
    from accelerate import Accelerator, state

    Accelerator(cpu=True)
    assert shared_state(state.AcceleratorState)["distributed_type"].value == "NO"
    assert shared_state(state.PartialState)
    reset_accelerate(state)
    assert not shared_state(state.AcceleratorState)
    assert not shared_state(state.PartialState)


def test_the_launcher_reads_its_configuration():
    arguments, defaults = launch_arguments(
        ["--config_file", str(ROOT / "recipes" / "accelerate" / "zero2.yaml"), "--num_processes", "3", "-m", "stage"]
    )
    assert (arguments.num_processes, arguments.use_deepspeed) == (3, True)
    assert defaults.deepspeed_config["zero_stage"] == 2


def test_graphs_are_counted_and_their_static_inputs_known():
    import torch

    counter, kept = counting_backend("eager"), torch.zeros(2)
    mark_static_address(kept)
    torch.compile(lambda x: x + kept, backend=counter)(torch.ones(2))
    (graph,) = counter.graphs
    static = [is_static_input(node) for node in graph.graph.find_nodes(op="placeholder")]
    assert sorted(static) == [False, True]
    torch.compiler.reset()
