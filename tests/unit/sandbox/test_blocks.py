"""Blocks of code: state, values, errors, figures."""

import struct

import pytest

from tests.unit.sandbox.conftest import started


@pytest.fixture(scope="module")
def warm_box():
    """A sandbox with numpy, pandas and matplotlib."""
    with started("auto", ("numpy", "pandas", "matplotlib.pyplot")) as box:
        if len(box.modules) < 3:
            pytest.skip("numpy, pandas or matplotlib is not installed")
        yield box


@pytest.fixture
def warm(warm_box):
    with warm_box.session() as session:
        yield session


def size(png: bytes) -> tuple[int, int]:
    """Width and height in a PNG's header."""
    return struct.unpack(">II", png[16:24])


def test_variables_persist(session):
    assert session.run("x = 40").ok
    assert session.run("x += 2\nx").value == "42"


def test_the_value_is_the_last_expression(session):
    assert session.run("1\n'a' * 2").value == "'aa'"
    assert session.run("y = 5").value is None
    assert session.run("None").value is None
    assert session.run("").ok
    assert session.run("# nothing").value is None
    assert session.run("if True:\n    7").value is None


def test_blocks_are_the_module_main(session):
    assert session.run("__name__").value == "'__main__'"
    assert session.run("import dataclasses, sys\nclass A: pass\nsys.modules['__main__'].A is A").value == "True"
    code = "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: 'int'\nimport pickle\n"
    assert session.run(code + "pickle.loads(pickle.dumps(P(3)))").value == "P(x=3)"


def test_future_imports_do_not_leak_into_blocks(session):
    assert session.run("def f(x: 1 + 1): pass\nf.__annotations__").value == "{'x': 2}"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import sys\nsys.exit()", "SystemExit"),
        ("input('name? ')", "EOFError: EOF when reading a line"),
        ("class A:\n    def __repr__(self): return 5\nA()", "TypeError: __repr__ returned non-string (type int)"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E", "E: <exception str() failed>"),
        ("class E(Exception):\n    def __bool__(self): 1 / 0\nraise E('x')", "E"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
        ("bytearray(10**12)", "MemoryError"),
        ("'\\ud800'.encode()", "UnicodeEncodeError: 'utf-8' codec can't encode character '\\ud800' in position 0: "
         "surrogates not allowed"),
    ],
)  # fmt: skip
def test_an_exception_is_reported_and_the_state_kept(session, code, error):
    session.run("kept = 'kept'")
    result = session.run(code)
    assert (result.ok, result.error, result.ended, result.lost) == (False, error, None, False)
    assert session.run("kept").value == "'kept'"


def test_the_text_of_input_is_printed(session):
    assert session.run("input('name? ')").stdout == "name? "


def test_a_traceback_begins_with_the_block(session):
    result = session.run("def f():\n    return {}['key']\n\nf()")
    assert result.traceback.splitlines() == [
        "Traceback (most recent call last):",
        '  File "<block 1>", line 4, in <module>',
        "    f()",
        '  File "<block 1>", line 2, in f',
        "    return {}['key']",
        "           ~~^^^^^^^",
        "KeyError: 'key'",
    ]


def test_a_syntax_error_names_the_line(session):
    result = session.run("x = 1\ndef f(:\n")
    assert result.error == "SyntaxError: invalid syntax"
    assert result.traceback.splitlines() == ['  File "<block 1>", line 2', "    def f(:", "          ^", result.error]


def test_a_null_byte_is_a_syntax_error(session):
    result = session.run("1\0")
    assert not result.ok
    assert "null bytes" in result.error


def test_memory_that_runs_out_step_by_step(best_box):
    """The message about it needs memory too."""
    with best_box.session() as session:
        result = session.run("kept, big = 1, []\nwhile True: big.append(bytes(2**26))")
        assert (result.error, result.ended) == ("MemoryError", None)
        assert session.run("del big\nkept").value == "1"


def test_a_long_value_is_cut(session):
    assert session.run("'x' * 100_010").value == "'" + "x" * 99_999 + "… [12 more characters]"


def test_a_value_that_is_no_text_can_be_printed(session):
    result = session.run("class A:\n    def __repr__(self): return 'a\\ud800'\nA()")
    assert result.value == "a\\ud800"


def test_code_that_replaces_what_it_shares_with_us_ends_the_session(session):
    result = session.run("print('before')\nimport builtins\nbuiltins.len = None")
    assert (result.ended, result.lost, result.stdout) == ("died", True, "before\n")
    assert result.error == "the process ended with exit code 1"
    assert result.stderr == "[sandbox: the block cannot be answered: TypeError: 'NoneType' object is not callable]\n"


def test_a_block_that_forks_answers_once(best_box):
    if best_box.level != "namespaces":
        pytest.skip("level landlock has no child processes")
    with best_box.session() as session:
        result = session.run("import os\nx = 1\nif os.fork() == 0:\n    x = 2\n    print('child')\nelse: os.wait()")
        assert (result.ok, result.stdout, result.stderr) == (True, "child\n", "")
        assert [session.run("x").value for _ in range(3)] == ["1"] * 3


def test_data_frames(warm):
    result = warm.run("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
    assert result.value == "   a\n0  1\n1  2"


def test_figures_come_in_the_order_of_their_numbers_and_are_closed(warm):
    code = "plt.figure(3, figsize=(2, 1), dpi=100)\nplt.figure(1, figsize=(1, 3), dpi=100)"
    result = warm.run(f"import matplotlib.pyplot as plt\n{code}")
    assert [size(image) for image in result.images] == [(100, 300), (200, 100)]
    assert warm.run("plt.get_fignums()").value == "[]"
    assert warm.run("1").images == ()


def test_figures_of_a_block_that_fails_are_kept(warm):
    result = warm.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\n1 / 0")
    assert (result.error, len(result.images)) == ("ZeroDivisionError: division by zero", 1)


def test_a_figure_that_cannot_be_drawn_is_an_error_and_is_closed(warm):
    result = warm.run("import matplotlib.pyplot as plt\nplt.title('$x')\nplt.figure().text(0, 0, r'$\\bad$')")
    assert result.error.startswith("ValueError")
    assert len(result.images) == 1
    assert warm.run("plt.get_fignums()").value == "[]"


def test_many_figures_are_bounded(warm):
    code = "import matplotlib.pyplot as plt\nfor _ in range(23): plt.figure(figsize=(.1, .1))"
    result = warm.run("import warnings\nwarnings.simplefilter('ignore')\n" + code)
    assert len(result.images) == 20
    assert result.stderr == "[sandbox: 3 figures left out; the most is 20 a block]\n"
