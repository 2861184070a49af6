"""Several processes for long: one dies and all are started again, each has its log, and who is slow is told."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.run.metrics import read
from tests.ppo_setting import make_setting
from tests.stage_runs import same, untimed, weights

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def launch(*arguments, options=()):
    """What make runs with HARDWARE=cpu_2, on a port of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu_2.yaml",
         "--main_process_port", "0", *options, "-m", "ppo", *map(str, arguments)],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.timeout(280)
def test_a_process_that_is_killed_is_started_again_and_the_run_goes_on(setting, tmp_path):
    steps = ["ppo.steps=12", "run.save_steps=2", "run.local_dir=" + str(tmp_path / "disk")]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = launch(setting, f"run.dir={whole}", *steps)
    out, err = done.communicate(timeout=120)
    assert done.returncode == 0, err

    process = launch(setting, f"run.dir={killed}", *steps, options=["--max_restarts", "1"])
    deadline = time.monotonic() + 120
    while not any(row["step"] >= 4 for row in read(killed / "metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    log = killed / "logs" / "process-1.log"
    os.kill(int(re.search(r"pid (\d+)", log.read_text())[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
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
        assert 0 <= row["straggler_seconds"] <= lost + 1e-3  # without the time that the barrier itself takes


@pytest.mark.timeout(200)
def test_a_mistake_that_only_one_process_makes_reaches_the_console(setting, tmp_path):
    """The second process finds no prompts: the launcher ends the other, and the line is there."""
    script = tmp_path / "spoilt.py"
    script.write_text(f"""
import os
import ppo.train
from engine.run.entry import run
from engine.run.folder import RunError
from tests.ppo_setting import recipe_of

plain = ppo.train.judge
def judge(*arguments):
    if os.environ["RANK"] == "1":
        if {{kind}}: raise RunError("no reward here; look for it")
        raise ZeroDivisionError("nobody expected this")
    return plain(*arguments)
ppo.train.judge = judge
run(ppo.train.train, recipe_of({str(setting)!r}, "run.dir={tmp_path}/run"))
""")
    text = script.read_text()
    log = tmp_path / "run" / "logs" / "process-1.log"
    for mistake, told in ((True, "process 1: error: no reward here; look for it\n"),
                          (False, f"process 1 of 2, whose log is {log}, ends by\n")):  # fmt: skip
        script.write_text(text.replace("{kind}", str(mistake)))
        done = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu_2.yaml",
             "--main_process_port", "0", script],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True,
            text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode != 0
        assert told in done.stderr
        assert ("error: no reward here" if mistake else "ZeroDivisionError: nobody expected this") in log.read_text()
        assert mistake or "ZeroDivisionError: nobody expected this" in done.stderr
