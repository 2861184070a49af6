"""The lines that a run prints between a signal and its exit: when, and on which rank."""

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
    """Return a function that makes an Interruption which prints its second line after the given seconds."""

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
    """Wait until `text` is printed to stderr; return all that was printed."""
    printed, deadline = "", time.monotonic() + 60
    while text not in printed:
        assert time.monotonic() < deadline
        time.sleep(0.01)
        printed += capsys.readouterr().err
    return printed


def test_a_long_step_after_a_signal_prints_what_it_waits_for(interrupted, capsys):
    with interrupted(0.05) as run:
        kill()
        assert err_until(capsys, "step 12\n") == FIRST + "SIGTERM: still waiting for step 12\n"
        assert run.code() == 143


def test_a_long_call_of_the_main_thread_does_not_delay_the_second_line(interrupted, capsys):
    with interrupted(0.05):
        kill()
        time.sleep(1)  # a single call, during which the main thread handles no signals
        assert capsys.readouterr().err == FIRST + "SIGTERM: still waiting for step 12\n"


def test_no_second_line_is_printed_once_the_step_has_ended(interrupted, capsys):
    with interrupted(0.2) as run:
        kill()
        assert run.code() == 143
        time.sleep(0.5)  # stands for writing the checkpoint
    assert capsys.readouterr().err == FIRST


def test_a_step_that_ended_before_the_signal_does_not_prevent_the_second_line(interrupted, capsys):
    with interrupted(0.05) as run:
        assert run.code() == 0
        kill()
        err_until(capsys, "step 12\n")


def test_no_second_line_is_printed_after_the_run_has_exited(interrupted, capsys):
    began = time.monotonic()
    with pytest.raises(SystemExit), interrupted(3600):
        kill(times=2)
    assert time.monotonic() - began < 1000  # the exit does not wait for the second line
    with interrupted(0.2):
        kill()
    time.sleep(0.5)
    assert capsys.readouterr().err == FIRST * 2


def test_a_run_without_a_signal_prints_nothing(interrupted, capsys):
    with interrupted(0.0) as run:
        assert run.code() == 0
    assert capsys.readouterr().err == ""


def test_other_ranks_print_nothing(interrupted, capsys):
    with interrupted(0.0, main=False) as run:
        kill()
        time.sleep(0.2)
        assert run.code() == 143
    assert capsys.readouterr().err == ""
