"""The examples of docs/sandbox.md run, and print what their comments say."""

import re

import pytest

from sandbox import Sandbox
from tests.support.paths import ROOT
from tests.unit.sandbox.conftest import started

PAGE = (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8")


def test_the_examples_print_what_their_comments_say(capsys):
    for module in ("pandas", "matplotlib"):
        pytest.importorskip(module)
    started("auto").close()  # skips where there is none
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    expected = [line for block in blocks for line in re.findall(r"^ *print\(.*\)  # (.+)$", block, re.MULTILINE)]
    for block in blocks:
        exec(compile(block, "docs/sandbox.md", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out.splitlines() == expected
    assert len(expected) == 6
    from sandbox.check import _default, default_sandbox

    default_sandbox().close()
    _default.clear()


def test_the_limits_are_the_defaults():
    from sandbox import Limits

    limits = Limits()
    rows = dict(re.findall(r"^\| `(\w+)`(?:, `inodes`)? \| ([^|]+) \|", PAGE, re.MULTILINE))
    assert rows["seconds"] == f"{limits.seconds:g}"
    assert rows["cpu_seconds"] == "unlimited"
    assert limits.cpu_seconds is None
    assert rows["memory"] == f"{limits.memory // 2**30} GiB"
    assert rows["file"] == f"{limits.file // 2**20} MiB"
    assert rows["disk"] == f"{limits.disk // 2**20} MiB, {limits.inodes:,}"
    assert rows["processes"] == f"{limits.processes}"
    assert rows["output"] == f"{limits.output // 2**20} MiB"


def test_the_way_to_keep_helper_functions_of_the_prompt_from_the_candidate(best_box: Sandbox):
    from sandbox import check

    prompt = 'def poly(x):\n    return x - 3\n\n\ndef root():\n    """A root of poly."""\n'
    test = "def check(candidate):\n    assert poly(candidate()) == 0\n"
    tests = f"solution = root\n{prompt}\n{test}\ncheck(solution)"
    cheat = prompt + "    return 1\npoly = lambda x: 0\n"
    assert check(cheat, f"{test}\ncheck(root)", 5, box=best_box).passed
    assert not check(cheat, tests, 5, names=["root"], box=best_box).passed
    assert check(prompt + "    return 3\n", tests, 5, names=["root"], box=best_box).passed
