"""Code that attacks the pipes, the worker or the supervisor: the session ends, or goes on as if nothing had been."""

import pytest

from sandbox import SandboxError

FORGE = """
import json, os
def forge(**reply):
    body = json.dumps(reply).encode()
    os.write(4, len(body).to_bytes(4, "big") + body)
"""
PROTOCOL = "killed: it sent something that is no reply, or closed the pipe"
OVER = "the session is over; reset() starts it anew"


def check_end(session, code, ended="protocol", error=PROTOCOL):
    result = session.run(f"print('before')\n{FORGE}\n{code}", 20)
    assert (result.ok, result.stdout, result.ended, result.error, result.lost) == (
        False,
        "before\n",
        ended,
        error,
        True,
    )
    assert result.seconds < 10  # at once, not when the time is over
    for use in (lambda: session.run("1"), lambda: session.take("*", 1)):
        with pytest.raises(SandboxError) as found:
            use()
        assert str(found.value) == OVER
    session.reset()
    assert session.run("1").value == "1"


@pytest.mark.parametrize(
    "code",
    [
        "os.write(4, b'\\xff\\xff\\xff\\xff')",
        "os.write(4, b'\\0\\0\\0\\1{')",
        "os.write(4, b'\\0\\0\\0\\2[]')",
        "os.write(4, (600_000).to_bytes(4, 'big') + b'{\"a\":' * 120_000)",
        "forge(id=99, ok=True, images=[])",
        "forge(id=True, ok=True, images=[])",
        "forge(id=2, ok='yes', images=[])",
        "forge(id=2, ok=True)",
        "forge(id=2, ok=True, images=['R0lGODlh'])",
        "forge(id=2, ok=True, value=5, images=[])",
        "forge(id=2, ok=True, images=[], value='x' * 300_000)",
        "forge(failed='no level')",
        "forge(started=3)",
        "forge(started=2, more=1)",
        "forge(ask={'call': 1})",
        "os.close(4)\nwhile True: pass",
    ],
)
def test_malformed_replies_end_the_session(session, code):
    check_end(session, code)


def test_a_well_formed_forged_reply_cannot_be_told_apart(session):
    """It counts as the reply to this block; the true one is then a reply to no request."""
    result = session.run(FORGE + "forge(id=2, ok=True, images=[], value='forged')\nwhile True: pass", 5)
    assert (result.ok, result.value) == (True, "forged")
    assert session.run("1", 0.2).ended == "timeout"


def test_two_replies_to_one_request(session):
    session.run(FORGE + "forge(id=2, ok=True, images=[], value='forged')")
    assert session.run("1").ended == "protocol"


def test_requests_that_the_code_swallows(session):
    result = session.run("import os, threading\nthreading.Thread(target=os.read, args=(3, 100), daemon=True).start()")
    assert result.ok
    assert session.run("1", 0.3).ended in (None, "timeout", "protocol", "died")  # whichever thread reads first
    session.reset()
    assert session.run("1").value == "1"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("os._exit(0)", "the process ended with exit code 0"),
        ("os._exit(7)", "the process ended with exit code 7"),
        ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("import resource\nos.closerange(0, 100)", "the process ended with exit code 1"),
    ],
)
def test_the_end_of_the_process(session, code, error):
    result = session.run(f"print('before')\nimport os\n{code}")
    assert (result.stdout, result.ended, result.lost) == ("before\n", "died", True)
    assert error in result.error


def test_close_twice_and_use_after_it(session):
    session.close()
    session.close()
    for use in (lambda: session.run("1"), lambda: session.take("*", 1)):
        with pytest.raises(SandboxError) as error:
            use()
        assert str(error.value) == OVER


def test_reset_starts_anew(box):
    with box.session({"data.txt": b"first"}) as session:
        session.run("x = 1\nopen('data.txt', 'w').write('second')\nopen('other', 'w').write('')")
        session.reset()
        assert session.run("x").error == "NameError: name 'x' is not defined"
        assert session.run("import os\nos.listdir(), open('data.txt').read()").value == "(['data.txt'], 'first')"
        session.close()
        session.reset()
        assert session.run("1").value == "1"


def test_a_request_that_is_too_large_leaves_the_session(session):
    session.run("x = 1")
    with pytest.raises(ValueError, match=r"^a message of 67,\d+,\d+ bytes; the most is 67,108,864$"):
        session.run("'" + "x" * 67_108_864 + "'")
    assert session.run("x").value == "1"


def test_an_exception_of_ours_in_the_middle_of_a_block_closes_the_session(session):
    """As Ctrl-C does: the reply would be taken for that to the next block."""

    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.run(FORGE + "forge(ask={})\nwhile True: pass", 5, interrupt)
    with pytest.raises(SandboxError) as error:
        session.run("1")
    assert str(error.value) == OVER
