"""Launching: the files of recipes/accelerate, and how a launch ends whose process fails."""

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
from tests.support.paths import ROOT
from tests.support.uneven_setting import alone, assert_same_run, make_setting

CONFIGURATIONS = accelerate_config.names()
# A stage of two processes in which something goes wrong, and the other one waits.
FLAWED = """
import os, signal, sys
from pathlib import Path
from accelerate import Accelerator
from engine.run import entry
from engine.run.launch import RunSection
from config import RecipeError
from config.sections import TrainingRun

def stage(recipe):
    Path(recipe.run.dir, "began").touch()
    if flaw == "first" and os.environ["RANK"] == "0":
        raise RecipeError("before they have met")
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    if flaw == "both":
        raise RecipeError("a.jsonl:3: no such role")
    accelerator.wait_for_everyone()
    if accelerator.process_index == 1:
        if flaw == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise {"one": RecipeError("only here"), "bug": KeyError("only here")}[flaw]
    accelerator.wait_for_everyone()

_, flaw, folder = sys.argv
if flaw == "both" or os.environ["RANK"] == "0":
    entry.REPORT_DELAY_SECONDS = 60  # however late the launcher is, it ends these before they speak
entry.run(stage, RunSection(run=TrainingRun(dir=folder)))
"""


def launched(*arguments: str, path: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m engine.run.launch ...`"""
    return subprocess.run(
        [sys.executable, "-m", "engine.run.launch", *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": path} | environment, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_is_taken_with_a_process_for_every_gpu(name):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    restarts = 0 if name == "multi_node" else 3
    told = launch.accelerate_arguments(name, 4, {"MACHINE_RANK": "1", "RESTARTS": str(restarts)})
    if name in ("cpu", "one_gpu"):
        assert told == []
        return
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*told, "-m", "sft"]))
    assert arguments.num_processes == {"cpu_2": 2, "multi_node": 8}.get(name, 4)
    assert (arguments.machine_rank, arguments.num_machines) == ((1, 2) if name == "multi_node" else (0, 1))
    assert arguments.use_cpu == (name == "cpu_2")
    assert (arguments.mixed_precision, arguments.max_restarts) == ("no", restarts)
    assert arguments.use_fsdp == (name in ("fsdp2", "multi_node"))
    assert arguments.use_deepspeed == name.startswith("zero")


def test_what_cannot_be_launched(monkeypatch, tmp_path):
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
    """What the launcher makes of processes, given the exit code of each and the second in which that was seen."""
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
        ([(1, 102), (KILL, 100), (TERM, 102)], 137, [1]),  # memory ran out
        ([(TERM, 130), (KILL, 100), (KILL, 130)], 137, [1]),  # memory ran out, and one waited until the launcher's end
        ([(2, 100), (KILL, 130)], 2, []),
        ([(TERM, 100), (KILL, 131)], 143, []),
        ([(-signal.SIGSEGV, 100), (1, 101)], 139, [0]),
    ],
)
def test_exit_codes(capsys, ended, code, killed):
    assert launch.exit_code(failures(*ended)) == code
    names = {KILL: "SIGKILL", -signal.SIGSEGV: "SIGSEGV"}
    assert capsys.readouterr().err.splitlines() == [
        f"error: process {rank} was killed by {names[ended[rank][0]]}; "
        "the same command continues from the last checkpoint"
        for rank in killed
    ]


def test_a_launched_run_is_that_of_one_process(tmp_path):
    setting = make_setting(tmp_path)
    done = launched("cpu_2", "sft", str(setting / "sft.yaml"), f"run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    generators = {path.name for path in (tmp_path / "run" / "checkpoint-6").glob("rng_state*")}
    assert generators == {"rng_state_0.pth", "rng_state_1.pth"}  # as many as have met, not as were launched
    assert_same_run(alone(setting, "sft"), tmp_path / "run")


def test_ranks_inherit_how_the_launcher_lets_threads_wait(tmp_path, monkeypatch):
    """As libgomp has read it in each: it prints that when torch loads it."""
    for name in WAIT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", str(max(2, psutil.cpu_count())))  # beside a core that is busy too many
    (tmp_path / "flawed.py").write_text(FLAWED)
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        done = launched("cpu_2", "flawed", "both", str(tmp_path / "run"), path=str(tmp_path), OMP_DISPLAY_ENV="verbose")
    finally:
        neighbour.kill()
        neighbour.wait()
    assert done.returncode == 2
    assert done.stderr.count("other processes leave") == 1
    assert done.stderr.count("GOMP_SPINCOUNT = '0'") >= 2


@pytest.mark.parametrize(
    ("flaw", "code", "said"),
    [
        ("first", 2, "error: before they have met\n"),
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
def test_how_a_launch_ends_whose_process_fails(tmp_path, flaw, code, said):
    (tmp_path / "flawed.py").write_text(FLAWED)
    run = tmp_path / "run"
    done = launched("cpu_2", "flawed", flaw, str(run), path=str(tmp_path))
    seconds = time.time() - (run / "began").stat().st_mtime  # since the last process has come so far
    assert done.returncode == code, done.stderr
    assert done.stderr.rstrip().endswith(said.rstrip())
    if flaw != "bug":
        assert done.stderr == said
    else:
        assert done.stderr.count("Traceback") == 1
    assert seconds < launch.GRACE_SECONDS
