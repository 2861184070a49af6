"""How OpenMP's threads wait: chosen before torch is imported, and never against what the user has set."""

import os

import pytest

from config import cli, threads
from config.threads import choose_wait_policy
from sft.recipe import SFT


@pytest.fixture
def machine(monkeypatch):
    """A function that makes this a machine of eight cores, so many percent of each busy; four are ours."""

    def make(*percent, **environment):
        monkeypatch.setattr(threads.psutil, "cpu_percent", lambda interval, percpu: [*percent, 0, 0, 0, 0])
        monkeypatch.setattr(threads.psutil, "cpu_count", lambda logical=True: 8)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
        monkeypatch.setattr(os, "environ", environment)

    return make


def test_beside_a_busy_core_waiting_threads_sleep_and_a_line_says_so(machine, capsys):
    machine(100.0, 20.0, 0.0, 0.0)
    choose_wait_policy()
    assert os.environ == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert capsys.readouterr().err == (
        "other processes leave 2.8 of 4 cores free, so waiting threads sleep (OMP_WAIT_POLICY=PASSIVE); "
        "see docs/troubleshooting.md\n"
    )


@pytest.mark.parametrize(
    ("percent", "environment"),
    [
        ((20.0, 20.0, 0.0, 0.0), {}),
        ((100.0, 100.0, 0.0, 0.0), {"OMP_NUM_THREADS": "2"}),
        ((100.0, 100.0, 100.0, 100.0), {"OMP_WAIT_POLICY": "ACTIVE"}),
        ((100.0, 100.0, 100.0, 100.0), {"GOMP_SPINCOUNT": "1000"}),
        ((100.0, 100.0, 100.0, 100.0), {"OMP_NUM_THREADS": "1"}),
        ((100.0, 100.0, 100.0, 100.0), {"LOCAL_RANK": "0"}),
    ],
    ids=str,
)
def test_otherwise_the_environment_stays(machine, capsys, percent, environment):
    machine(*percent, **environment)
    before = dict(environment)
    choose_wait_policy()
    assert os.environ == before
    assert capsys.readouterr().err == ""


def test_the_command_line_chooses_before_it_imports_the_runner(machine, monkeypatch):
    machine(100.0, 100.0, 100.0, 100.0)
    monkeypatch.setattr(cli, "from_command_line", lambda *_, **__: "the recipe")
    seen = []
    monkeypatch.setattr(
        cli, "import_function", lambda path: seen.append((path, os.environ["OMP_WAIT_POLICY"])) or print
    )
    cli.main(SFT, "sft.train:train")
    assert seen == [(cli.RUNNER, "PASSIVE"), ("sft.train:train", "PASSIVE")]
