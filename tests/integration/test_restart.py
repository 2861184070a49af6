"""Several processes for long: one dies and all are started again, each has its log, and who is slow is told."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from engine.files.jsonl import read
from tests.support.paths import ROOT
from tests.support.ppo_setting import make_setting
from tests.support.stage_runs import same, untimed, weights


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def launch(*arguments, restarts=0, stage="ppo", path=""):
    """What make runs with HARDWARE=cpu_2."""
    environment = {"OMP_NUM_THREADS": "1", "RESTARTS": str(restarts), "PYTHONPATH": str(path)}
    return subprocess.Popen(
        [sys.executable, "-m", "engine.run.launch", "cpu_2", stage, *map(str, arguments)],
        cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_process_that_is_killed_is_started_again_and_the_run_goes_on(setting, tmp_path):
    steps = ["ppo.steps=12", "run.save_steps=2", "run.local_dir=" + str(tmp_path / "disk")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = launch(setting, f"run.dir={whole}", *steps)
    out, err = done.communicate(timeout=500)
    assert done.returncode == 0, err

    process = launch(setting, f"run.dir={killed}", *steps, restarts=1)
    deadline = time.monotonic() + 500
    while not any(row["step"] >= 4 for row in read(killed / "metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    log = killed / "logs" / "process-1.log"
    os.kill(int(re.search(r"pid (\d+)", log.read_text())[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    assert f"{killed}: continuing from checkpoint-" in out
    assert out.count("finished, 12 steps") == 1
    assert untimed(killed) == untimed(whole)
    for name in ("model", "value"):
        assert same(weights(killed, name), weights(whole, name))

    # The console's lines are in the first process's log, and the second's own times only in its own.
    starts = [line for line in log.read_text().splitlines() if line.startswith("---")]
    assert len(starts) == 2
    assert starts[1].endswith(", restart 1")
    assert "step 1: sample_seconds" in log.read_text()
    assert "step 1: sample_seconds" not in out + err
    first = (killed / "logs" / "process-0.log").read_text()
    assert "finished, 12 steps" in first
    assert "continuing from checkpoint-" in first

    for row in read(whole / "metrics.jsonl"):
        lost = 0
        for phase in ("sample", "score", "learn"):
            slowest, mean = row[f"{phase}_seconds"], row[f"{phase}_mean_seconds"]
            assert 0 < mean <= slowest
            lost += slowest - mean
        assert row["straggler_seconds"] == pytest.approx(lost, abs=1e-5)


def test_a_launch_whose_time_is_over_ends_with_75(setting, tmp_path):
    process = launch(setting, f"run.dir={tmp_path}/run", "run.max_hours=1e-6", restarts=2)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 75, err
    assert out.endswith(
        f"{tmp_path}/run: run.max_hours=1e-06 is nearly over; saved checkpoint-1; "
        "the same command continues from there\n"
    )
    assert (tmp_path / "run" / "logs" / "process-1.log").read_text().count("---") == 1  # not started again


@pytest.mark.parametrize(
    ("flaw", "told"),
    [
        ('RunError("no reward here; look for it")', "error: no reward here; look for it\n"),
        ('ZeroDivisionError("nobody expected this")', "ZeroDivisionError: nobody expected this\n"),
    ],
)
def test_what_ends_the_second_process_reaches_log_and_console(setting, tmp_path, flaw, told):
    (tmp_path / "spoilt.py").write_text(f"""
import os, sys
import ppo.train
from engine.run.entry import run
from engine.run.folder import RunError
from tests.support.ppo_setting import recipe_of

plain = ppo.train.assess
def assess(*arguments):
    if os.environ["RANK"] == "1":
        raise {flaw}
    return plain(*arguments)
ppo.train.assess = assess
run(ppo.train.train, recipe_of(sys.argv[1], *sys.argv[2:]))
""")
    process = launch(setting, f"run.dir={tmp_path}/run", stage="spoilt", path=tmp_path)
    _, err = process.communicate(timeout=500)
    assert process.returncode == (2 if "RunError" in flaw else 1)
    assert told in err
    assert told in (tmp_path / "run" / "logs" / "process-1.log").read_text()
