"""What blocks print: bounded, never mixed with replies, and nothing lost of what came before."""

import time

import pytest

from sandbox import Limits

OUTPUT = 2**20


@pytest.mark.parametrize("code", ["print('x' * 200_000_000)", "for _ in range(200): print('x' * 1_000_000)"])
def test_two_hundred_megabytes_are_bounded_and_counted(session, code):
    lines = 1 if "for" not in code else 200
    began = time.monotonic()
    result = session.run(f"{code}\n'done'", 60)
    assert time.monotonic() - began < 20
    rest = 200_000_000 + lines - OUTPUT
    assert result.value == "'done'"
    assert result.stdout.endswith(f"x\n[sandbox: {rest:,} more bytes were left out]\n")
    assert len(result.stdout) == OUTPUT + len(f"\n[sandbox: {rest:,} more bytes were left out]\n")


def test_the_limit_holds_for_each_block_and_stream(best_box):
    with best_box.session(limits=Limits(output=3)) as session:
        for _ in range(2):
            result = session.run("import sys\nprint('abcd'), print('ab', file=sys.stderr)\nNone")
            assert result.stdout == "abc\n[sandbox: 2 more bytes were left out]\n"
            assert result.stderr == "ab\n"


def test_binary_and_invalid_utf8_output(session):
    result = session.run("import sys\nprint('a', end='', flush=True)\n_ = sys.stdout.buffer.write(b'\\x00\\xff\\xfe')")
    assert result.stdout == "a\x00\ufffd\ufffd"


def test_surrogates_are_printed_as_escapes(session):
    assert session.run("print('\\ud800')").stdout == "\\ud800\n"


def test_a_character_that_is_cut_by_the_limit(best_box):
    with best_box.session(limits=Limits(output=1)) as session:
        assert session.run("print('é', end='')").stdout == "\ufffd\n[sandbox: 1 more bytes were left out]\n"


def test_output_before_the_end_of_the_process_is_kept(session):
    result = session.run("import os\nprint('before', end='')\nos._exit(3)")
    assert (result.stdout, result.error) == ("before", "the process ended with exit code 3")


def test_output_of_programs(best_box):
    if best_box.level != "namespaces":
        pytest.skip("level landlock has no child processes")
    with best_box.session() as session:
        result = session.run("import os\nprint('a')\nos.system('echo b; echo c >&2')\nprint('d')")
        assert (result.stdout, result.stderr) == ("a\nb\nd\n", "c\n")


@pytest.mark.parametrize(
    "closing",
    ["sys.stdout.close()", "sys.stdout.detach()", "import os\nos.close(1)", "sys.stdout = 5"],
)
def test_a_closed_stdout_is_open_again_in_the_next_block(session, closing):
    assert session.run(f"import sys\nprint('a')\n{closing}").stdout == "a\n"
    assert session.run("print('b')").stdout == "b\n"


def test_printing_after_closing_is_an_error_of_the_block(session):
    result = session.run("import os\nos.close(1)\nprint('a')")
    assert result.error == "OSError: [Errno 9] Bad file descriptor"


def test_output_closed_for_good_leaves_the_rest_working(session):
    code = "import os\nfor fd in (1, 2, *range(5, 100)):\n    try: os.close(fd)\n    except OSError: 0"
    assert session.run(f"x = 1\n{code}").ok
    result = session.run("print('lost')\nx")
    assert (result.ok, result.stdout, result.value) == (True, "", "1")


def test_sys_dunder_stdout_is_the_same_stream(session):
    assert session.run("import sys\nprint('a', file=sys.__stdout__)\nprint('b')").stdout == "a\nb\n"


def test_a_thread_that_outlives_its_block_is_reported(session):
    code = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()"
    assert session.run(code).stderr == "[sandbox: still running after the block: 1 thread]\n"
    assert session.run("1").stderr == "[sandbox: still running after the block: 1 thread]\n"


def test_a_process_that_outlives_its_block_is_reported(best_box):
    if best_box.level != "namespaces":
        pytest.skip("level landlock has no child processes")
    with best_box.session() as session:
        result = session.run("import subprocess\nprocess = subprocess.Popen(['sleep', '60'])")
        assert result.stderr == "[sandbox: still running after the block: 1 process]\n"
        # An ended child that nobody has waited for does not run.
        result = session.run("process.kill()\nimport time\ntime.sleep(.2)")
        assert result.stderr == ""


def test_a_thread_that_prints_for_ever_is_bounded_and_disturbs_no_block(session):
    code = "import threading\ndef flood():\n    while True: print('y' * 1000)\n"
    result = session.run(code + "print('first')\nthreading.Thread(target=flood, daemon=True).start()")
    assert result.stdout.startswith("first\n")
    for _ in range(3):
        time.sleep(0.05)
        result = session.run("import time\ntime.sleep(.05)\n1")
        assert (result.value, result.ended) == ("1", None)
        assert 0 < len(result.stdout) <= OUTPUT + 100
