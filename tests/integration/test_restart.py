"""Ranks are restarted when one dies, each rank has a log, and the time lost to slow ranks is a metric."""

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
    """Start what make runs with HARDWARE=cpu_2."""
    environment = {"OMP_NUM_THREADS": "1", "RESTARTS": str(restarts), "PYTHONPATH": str(path)}
    return subprocess.Popen(
        [sys.executable, "-m", "engine.run.launch", "cpu_2", stage, *map(str, arguments)],
        cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_killed_rank_is_restarted_and_the_run_ends_bit_for_bit(setting, tmp_path):
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

    # The log of rank 0 has the console's lines; the times of rank 1 are in its own log only.
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


def test_a_launch_that_reaches_max_hours_exits_with_75(setting, tmp_path):
    process = launch(setting, f"run.dir={tmp_path}/run", "run.max_hours=1e-6", restarts=2)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 75, err
    assert out.endswith(
        f"{tmp_path}/run: run.max_hours=1e-06 is nearly over; saved checkpoint-1; "
        "the same command continues from there\n"
    )
    assert (tmp_path / "run" / "logs" / "process-1.log").read_text().count("---") == 1  # not restarted


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ('RunError("no reward here; look for it")', "error: no reward here; look for it\n"),
        ('ZeroDivisionError("nobody expected this")', "ZeroDivisionError: nobody expected this\n"),
    ],
)
def test_the_error_of_another_rank_is_in_its_log_and_on_the_console(setting, tmp_path, failure, expected):
    (tmp_path / "failing.py").write_text(f"""
import os, sys
import ppo.train
from engine.run.entry import run
from engine.run.folder import RunError
from tests.support.ppo_setting import recipe_of

plain = ppo.train.assess
def assess(*arguments):
    if os.environ["RANK"] == "1":
        raise {failure}
    return plain(*arguments)
ppo.train.assess = assess
run(ppo.train.train, recipe_of(sys.argv[1], *sys.argv[2:]))
""")
    process = launch(setting, f"run.dir={tmp_path}/run", stage="failing", path=tmp_path)
    _, err = process.communicate(timeout=500)
    assert process.returncode == (2 if "RunError" in failure else 1)
    assert expected in err
    assert expected in (tmp_path / "run" / "logs" / "process-1.log").read_text()
