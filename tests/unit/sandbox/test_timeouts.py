"""Time limits: a block is interrupted and keeps its state where it can; else all ends."""

import os
import threading
import time

import pytest

import sandbox.warden as warden
from sandbox import Limits
from sandbox.channel import Channel
from sandbox.protocol import Pipes, receive, send
from tests.unit.sandbox.conftest import started

SLEEP = "import time\ntime.sleep(60)"


def test_a_block_that_is_interrupted_keeps_its_state(session):
    result = session.run(f"x = 1\nprint('before')\n{SLEEP}", 0.2)
    assert (result.ok, result.ended, result.lost) == (False, "timeout", False)
    assert (result.error, result.stdout) == ("interrupted after 0.2 s", "before\n")
    assert result.traceback.splitlines()[-1] == "KeyboardInterrupt"
    assert "worker.py" not in result.traceback
    assert 0.2 <= result.seconds < 1.2
    assert session.run("x").value == "1"


def test_a_block_that_catches_the_interrupt_has_still_timed_out(session):
    result = session.run("try:\n    import time; time.sleep(60)\nexcept KeyboardInterrupt:\n    x = 2\nx", 0.2)
    assert (result.ok, result.ended, result.lost, result.value) == (False, "timeout", False, "2")
    assert result.error == "interrupted after 0.2 s"
    result = session.run("import time\ntry: time.sleep(60)\nexcept BaseException: raise ValueError('other')", 0.2)
    assert (result.ended, result.error) == ("timeout", "interrupted after 0.2 s")
    assert result.traceback.splitlines()[-1] == "ValueError: other"


def test_a_keyboard_interrupt_of_the_code_is_no_timeout(session):
    result = session.run("raise KeyboardInterrupt")
    assert (result.ended, result.error) == (None, "KeyboardInterrupt")


@pytest.mark.parametrize(
    "code",
    [
        f"import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n{SLEEP}",
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
        "import time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass",
        "import signal\nfor number in {*range(1, 65)} - {9, 19, 32, 33}:\n    signal.signal(number, signal.SIG_IGN)\n"
        "signal.pause()",
    ],
    ids=["ignored", "blocked", "caught", "all ignored"],
)
def test_a_block_that_goes_on_is_killed_a_second_later(session, code):
    result = session.run(f"print('before')\n{code}", 0.2)
    assert (result.ok, result.ended, result.lost, result.stdout) == (False, "timeout", True, "before\n")
    assert result.error == "killed: it did not end within 0.2 s, nor 1 s after an interrupt"
    assert 1.2 <= result.seconds < 4


def test_the_next_block_can_be_interrupted_after_one_that_ignored_the_signal(session):
    assert session.run("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)").ok
    assert not session.run(SLEEP, 0.2).lost


def test_a_late_interrupt_does_not_hit_the_next_block(session):
    """Blocks that end just as their time does: reply and interrupt cross."""
    for number in range(40):
        seconds = 0.004 + number % 10 * 0.0005
        first = session.run(f"import time\ntime.sleep({seconds})\n{number}", 0.006)
        assert first.ended == "timeout" or (first.ok and first.value == str(number))
        second = session.run("time.sleep(.001)\n'second'", 10)
        assert (second.ok, second.value, second.ended) == (True, "'second'", None), (number, first, second)


def test_a_reply_that_crosses_an_interrupt_waits_until_that_has_arrived():
    """Else the signal could hit the next block."""
    orders, status, requests, replies, stdout, stderr = (os.pipe() for _ in range(6))
    channel = Channel(Pipes(orders[1], status[0], requests[1], replies[0], stdout[0], stderr[0]), 100)

    def other_side():
        number = receive(requests[0])["id"]
        send(replies[1], {"started": number})
        assert os.read(orders[0], 10) == warden.INTERRUPT
        send(replies[1], {"id": number})
        time.sleep(0.3)
        os.write(status[1], b'{"interrupted": true}\n')

    thread = threading.Thread(target=other_side)
    thread.start()
    began = time.monotonic()
    assert channel.exchange({}, 0.1) == ({"id": 1}, True)
    assert time.monotonic() - began >= 0.35
    thread.join()
    os.close(status[1])
    channel.close()
    for descriptor in (orders[0], requests[0], replies[1], stdout[1], stderr[1]):
        os.close(descriptor)


def test_figures_are_not_drawn_after_an_interrupt():
    with started("auto", ("matplotlib.pyplot",)) as box, box.session() as session:
        if not box.modules:
            pytest.skip("matplotlib is not installed")
        result = session.run(f"import matplotlib.pyplot as plt\nplt.figure()\n{SLEEP}", 0.3)
        assert (result.ended, result.lost, result.images) == ("timeout", False, ())
        assert result.stderr == "[sandbox: 1 figure left out: the block was interrupted]\n"
        # An interrupt while a figure is drawn; this one takes for ever.
        code = (
            "import time\nclass Slow(plt.Axes):\n    def draw(self, renderer): time.sleep(60)\nfigure = plt.figure()\n"
        )
        result = session.run(code + "figure.add_axes(Slow(figure, (0, 0, 1, 1)))\nx = 5", 0.3)
        assert (result.ok, result.ended, result.lost, result.images) == (False, "timeout", False, ())
        assert session.run("x, plt.get_fignums()").value == "(5, [])"


def test_the_limit_of_cpu_time(box):
    with box.session(limits=Limits(cpu_seconds=1)) as session:
        result = session.run("print('before')\nwhile True: pass", 60)
        assert (result.ended, result.lost, result.stdout) == ("timeout", True, "before\n")
        assert result.error == "killed: the process used more than 1 s of CPU time"


def test_the_default_is_that_of_the_limits(best_box):
    with best_box.session(limits=Limits(seconds=0.2)) as session:
        assert session.run(SLEEP).error == "interrupted after 0.2 s"


def test_odd_timeouts(session):
    assert session.run("1", float("inf")).value == "1"
    assert session.run(SLEEP, 0).ended == "timeout"
    for seconds in (-1, float("nan")):
        with pytest.raises(ValueError, match=r"^timeout=(-1|nan): must be 0 or more seconds$"):
            session.run("1", seconds)
    assert session.run("1").value == "1"


def test_sessions_of_several_threads_wait_side_by_side(best_box):
    def wait():
        with best_box.session() as session:
            session.run("import time\ntime.sleep(.5)")

    threads = [threading.Thread(target=wait) for _ in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 1.8
