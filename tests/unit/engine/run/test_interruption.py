"""The lines that a run prints between a signal and its end: when, from which rank, and never afterwards."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest

from engine.run import interruption
from engine.run.interruption import Interruption

FIRST = "SIGTERM: finishing this step and saving; a second signal exits immediately\n"


@pytest.fixture
def interrupted(monkeypatch):
    """A function that makes an Interruption whose second line comes after so many seconds."""

    def make(seconds, main=True):
        monkeypatch.setattr(interruption, "PATIENCE_SECONDS", seconds)
        accelerator = SimpleNamespace(is_main_process=main, num_processes=1)
        return Interruption(accelerator, SimpleNamespace(reached=False), lambda: "still waiting for step 12")

    threads = threading.active_count()
    yield make
    assert threading.active_count() == threads


def kill(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGTERM)


def err_until(capsys, text):
    """What has been printed on stderr once `text` is in it."""
    printed, deadline = "", time.monotonic() + 60
    while text not in printed:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        printed += capsys.readouterr().err
    return printed


def test_a_long_step_says_what_is_waited_for(interrupted, capsys):
    with interrupted(0.05) as run:
        kill()
        assert err_until(capsys, "step 12\n") == FIRST + "SIGTERM: still waiting for step 12\n"
        assert run.code() == 143


def test_once_a_signal_is_noticed_a_long_call_of_the_main_thread_does_not_delay_the_line(interrupted, capsys):
    with interrupted(0.05):
        kill()
        time.sleep(1)  # one call, in which Python handles nothing on the main thread
        assert capsys.readouterr().err == FIRST + "SIGTERM: still waiting for step 12\n"


def test_no_second_line_once_the_step_has_ended(interrupted, capsys):
    with interrupted(0.2) as run:
        kill()
        assert run.code() == 143
        time.sleep(0.5)  # the checkpoint
    assert capsys.readouterr().err == FIRST


def test_the_end_of_a_step_before_the_signal_does_not_count(interrupted, capsys):
    with interrupted(0.05) as run:
        assert run.code() == 0
        kill()
        err_until(capsys, "step 12\n")


def test_no_second_line_after_the_run_has_left(interrupted, capsys):
    began = time.monotonic()
    with pytest.raises(SystemExit), interrupted(3600):
        kill(times=2)
    assert time.monotonic() - began < 1000  # nothing waits for the second line
    with interrupted(0.2):
        kill()
    time.sleep(0.5)
    assert capsys.readouterr().err == FIRST * 2


def test_a_run_that_no_signal_reaches_ends_without_a_line(interrupted, capsys):
    with interrupted(0.0) as run:
        assert run.code() == 0
    assert capsys.readouterr().err == ""


def test_other_ranks_print_nothing(interrupted, capsys):
    with interrupted(0.0, main=False) as run:
        kill()
        time.sleep(0.2)
        assert run.code() == 143
    assert capsys.readouterr().err == ""
