"""The wait policy of OpenMP threads is chosen before torch is imported and never overrides the user's settings."""

import os

import pytest

from config import cli, threads
from config.threads import choose_wait_policy
from sft.recipe import SFT


@pytest.fixture
def machine(monkeypatch):
    """Return a function that fakes eight cores, four of them ours, with the given usage in percent."""

    def set_usage(*percent, **environment):
        monkeypatch.setattr(threads.psutil, "cpu_percent", lambda interval, percpu: [*percent, 0, 0, 0, 0])
        monkeypatch.setattr(threads.psutil, "cpu_count", lambda logical=True: 8)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
        monkeypatch.setattr(os, "environ", environment)

    return set_usage


def test_waiting_threads_sleep_if_a_core_is_busy_and_a_line_reports_it(machine, capsys):
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
def test_otherwise_the_environment_is_unchanged(machine, capsys, percent, environment):
    machine(*percent, **environment)
    before = dict(environment)
    choose_wait_policy()
    assert os.environ == before
    assert capsys.readouterr().err == ""


def test_the_wait_policy_is_chosen_before_the_runner_is_imported(machine, monkeypatch):
    machine(100.0, 100.0, 100.0, 100.0)
    monkeypatch.setattr(cli, "from_command_line", lambda *_, **__: "the recipe")
    imports = []
    monkeypatch.setattr(
        cli, "import_function", lambda path: imports.append((path, os.environ["OMP_WAIT_POLICY"])) or print
    )
    cli.main(SFT, "sft.train:train")
    assert imports == [(cli.RUNNER, "PASSIVE"), ("sft.train:train", "PASSIVE")]
