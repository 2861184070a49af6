"""Launching: the files of recipes/accelerate, and exit codes and messages when a rank fails."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from config import RecipeError
from config.threads import WAIT_VARIABLES
from engine.run import accelerate_config, launch
from tests.support.compat import launch_arguments
from tests.support.paths import ROOT
from tests.support.uneven_setting import assert_same_run, make_setting, run_in_this_process

CONFIGURATIONS = accelerate_config.names()
# A stage on two ranks of which one or both fail, while the other waits.
FAILING = """
import os, signal, sys
from pathlib import Path
from accelerate import Accelerator
from engine.run import entry
from engine.run.launch import RunSection
from config import RecipeError
from config.sections import TrainingRun

def stage(recipe):
    Path(recipe.run.dir, "began").touch()
    if failure == "first" and os.environ["RANK"] == "0":
        raise RecipeError("before the ranks connect")
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    if failure == "both":
        raise RecipeError("a.jsonl:3: no such role")
    accelerator.wait_for_everyone()
    if accelerator.process_index == 1:
        if failure == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"one": RecipeError("only here"), "bug": KeyError("only here")}[failure]
    accelerator.wait_for_everyone()

_, failure, folder = sys.argv
if failure == "both" or os.environ["RANK"] == "0":
    entry.REPORT_DELAY_SECONDS = 60  # the launcher ends these before they report, however slow it is
entry.run(stage, RunSection(run=TrainingRun(dir=folder)))
"""


def run_launch(*arguments: str, path: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m engine.run.launch ...`."""
    return subprocess.run(
        [sys.executable, "-m", "engine.run.launch", *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": path} | environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_accelerate_accepts_every_configuration_with_a_rank_per_gpu(name):
    restarts = 0 if name == "multi_node" else 3
    given = launch.accelerate_arguments(name, 4, {"MACHINE_RANK": "1", "RESTARTS": str(restarts)})
    if name in ("cpu", "one_gpu"):
        assert given == []
        return
    arguments, _ = launch_arguments([*given, "-m", "sft"])
    assert arguments.num_processes == {"cpu_2": 2, "multi_node": 8}.get(name, 4)
    assert (arguments.machine_rank, arguments.num_machines) == ((1, 2) if name == "multi_node" else (0, 1))
    assert arguments.use_cpu == (name == "cpu_2")
    assert (arguments.mixed_precision, arguments.max_restarts) == ("no", restarts)
    assert arguments.use_fsdp == (name in ("fsdp2", "multi_node"))
    assert arguments.use_deepspeed == name.startswith("zero")


def test_impossible_launches_are_refused(monkeypatch, tmp_path):
    with pytest.raises(RecipeError) as error:
        launch.accelerate_arguments("zero3", 0, {})
    assert str(error.value) == "HARDWARE=zero3 needs a GPU, and this machine has none; use HARDWARE=cpu or cpu_2"
    with pytest.raises(RecipeError) as error:
        launch.accelerate_arguments("none", 0, {})
    assert str(error.value) == f"HARDWARE=none does not exist; use one of: auto {' '.join(CONFIGURATIONS)}"
    with pytest.raises(RecipeError) as error:
        launch.accelerate_arguments("multi_node", 4, {"RESTARTS": "3"})
    assert str(error.value) == "RESTARTS=3 needs one machine; leave it out with multi_node"
    (tmp_path / "mine.yaml").write_text(
        (accelerate_config.CONFIGURATIONS / "ddp.yaml").read_text() + "num_processes: 8\n"
    )  # fmt: skip
    monkeypatch.setattr(accelerate_config, "CONFIGURATIONS", tmp_path)
    with pytest.raises(RecipeError) as error:
        launch.accelerate_arguments("mine", 2, {})
    assert str(error.value) == f"HARDWARE=mine needs 8 GPUs, and this machine has 2; see {tmp_path / 'mine.yaml'}"
    (tmp_path / "mine.yaml").write_text("distributed_type: MULTI_CPU\ncompute_environment: LOCAL_MACHINE\n")
    with pytest.raises(RecipeError) as error:
        launch.accelerate_arguments("mine", 0, {})
    assert str(error.value) == (
        f"{tmp_path / 'mine.yaml'}: accelerate starts one process for MULTI_CPU; write MULTI_GPU, and use_cpu: true"
    )


def failures(*ended: tuple[int, int]) -> dict[int, ProcessFailure]:
    """Return the launcher's failures by rank from (exit code, second in which it was noticed) pairs."""
    made = {rank: ProcessFailure(rank, 0, code, "") for rank, (code, _) in enumerate(ended)}
    for rank, (_, second) in enumerate(ended):
        made[rank].timestamp = second
    return made


TERM, KILL = -signal.SIGTERM, -signal.SIGKILL


@pytest.mark.parametrize(
    ("ended", "code", "killed"),
    [
        ([(2, 100), (2, 100)], 2, []),
        ([(1, 100), (2, 100)], 2, []),
        ([(1, 100)], 1, []),
        ([(1, 100), (TERM, 101), (143, 101)], 1, []),
        ([(143, 100), (TERM, 101)], 143, []),
        ([(1, 102), (KILL, 100), (TERM, 102)], 137, [1]),  # out of memory
        (
            [(TERM, 130), (KILL, 100), (KILL, 130)],
            137,
            [1],
        ),  # out of memory, and one rank waited until the launcher killed it
        ([(2, 100), (KILL, 130)], 2, []),
        ([(TERM, 100), (KILL, 131)], 143, []),
        ([(-signal.SIGSEGV, 100), (1, 101)], 139, [0]),
    ],
)
def test_the_exit_code_of_a_launch_is_that_of_the_rank_that_failed_first(capsys, ended, code, killed):
    assert launch.exit_code(failures(*ended)) == code
    names = {KILL: "SIGKILL", -signal.SIGSEGV: "SIGSEGV"}
    assert capsys.readouterr().err.splitlines() == [
        f"error: process {rank} was killed by {names[ended[rank][0]]}; "
        "the same command continues from the last checkpoint"
        for rank in killed
    ]


def test_a_run_on_two_launched_ranks_equals_one_on_a_single_process(tmp_path):
    setting = make_setting(tmp_path)
    done = run_launch("cpu_2", "sft", str(setting / "sft.yaml"), f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    generators = {path.name for path in (tmp_path / "run" / "checkpoint-6").glob("rng_state*")}
    assert generators == {"rng_state_0.pth", "rng_state_1.pth"}  # as many as ranks in the process group
    assert_same_run(run_in_this_process(setting, "sft"), tmp_path / "run")


def test_ranks_inherit_the_launchers_thread_wait_policy(tmp_path, monkeypatch):
    """As libgomp prints it in each rank when torch loads it."""
    for name in WAIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", str(max(2, psutil.cpu_count())))  # one thread per core, and one core is busy
    (tmp_path / "failing.py").write_text(FAILING)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        done = run_launch(
            "cpu_2", "failing", "both", str(tmp_path / "run"), path=str(tmp_path), OMP_DISPLAY_ENV="verbose"
        )
    finally:
        busy.kill()
        busy.wait()
    assert done.returncode == 2
    assert done.stderr.count("other processes leave") == 1
    assert done.stderr.count("GOMP_SPINCOUNT = '0'") >= 2


@pytest.mark.parametrize(
    ("failure", "code", "error"),
    [
        ("first", 2, "error: before the ranks connect\n"),
        ("both", 2, "error: a.jsonl:3: no such role\n"),
        ("one", 2, "error: only here\n"),
        (
            "killed",
            137,
            "error: process 1 was killed by SIGKILL; the same command continues from the last checkpoint\n",
        ),
        ("bug", 1, "KeyError: 'only here'\n"),
    ],
)
def test_a_failing_rank_ends_the_launch_with_its_error_and_exit_code(tmp_path, failure, code, error):
    (tmp_path / "failing.py").write_text(FAILING)
    run = tmp_path / "run"
    done = run_launch("cpu_2", "failing", failure, str(run), path=str(tmp_path))
    seconds = time.time() - (run / "began").stat().st_mtime  # since the last rank has started
    assert done.returncode == code, done.stderr
    assert done.stderr.rstrip().endswith(error.rstrip())
    if failure != "bug":
        assert done.stderr == error
    else:
        assert done.stderr.count("Traceback") == 1
    assert seconds < launch.GRACE_SECONDS
