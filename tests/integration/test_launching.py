"""Launching: the files of recipes/accelerate, what HARDWARE=auto picks, how a launch ends whose process fails."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from config import RecipeError
from engine.run import launch
from tests.support.paths import ROOT
from tests.support.ppo_setting import make_setting as make_ppo_setting
from tests.support.small_models import small_model
from tests.support.uneven_setting import alone, assert_same_run, make_setting

CONFIGURATIONS = sorted(path.stem for path in launch.CONFIGURATIONS.glob("*.yaml"))
# A stage of two processes in which something goes wrong, and the other one waits.
FLAWED = """
import os, signal, sys
from pathlib import Path
from accelerate import Accelerator
from engine.run import entry
from engine.run.launch import Whose
from recipes import RecipeError
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
    entry.PATIENCE = 60  # however late the launcher is, it ends these before they speak
entry.run(stage, Whose(run=TrainingRun(dir=folder)))
"""


def launched(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """`python -m engine.run.launch ...`"""
    return subprocess.run(
        [sys.executable, "-m", "engine.run.launch", *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip


def test_what_is_picked():
    gpu = 80_000_000_000
    assert launch.pick(0, 0, 0) == "cpu"
    assert launch.pick(1, gpu, 10**12) == "one_gpu"
    assert launch.pick(8, gpu, 16 * 1_800_000_000) == "ddp"
    assert launch.pick(8, gpu, 16 * 7_000_000_000) == "fsdp2"
    assert launch.pick(2, gpu, 4 * 7_000_000_000) == "ddp"


LOW, IN_4BIT = "model.dtype=bfloat16", ["lora.load_in_4bit=true", "lora.merge=false"]


@pytest.mark.parametrize(
    ("stage", "stored", "overrides", "of_layers", "of_the_rest"),
    [
        ("sft", "bfloat16", [], 16, 16),
        ("ppo", "bfloat16", [LOW], 36, 36),
        ("sft", "bfloat16", ["lora.r=8"], 4, 4),
        ("sft", "bfloat16", ["lora.r=8", LOW], 2, 4),
        ("sft", "float32", ["lora.r=8", LOW], 4, 4),
        ("reward", "bfloat16", ["lora.r=8", LOW, *IN_4BIT], 0.52, 4),
        ("ppo", "float32", ["models=shared"], 4, 4),
        ("ppo", "float32", ["models=shared", LOW], 2, 2),
        ("ppo", "float32", ["models=shared", LOW, "ppo.load_in_4bit=true"], 0.52, 2),
    ],
)
def test_the_memory_of_a_recipes_models(tmp_path, stage, stored, overrides, of_layers, of_the_rest):
    recipe = make_ppo_setting(tmp_path) if stage == "ppo" else make_setting(tmp_path) / f"{stage}.yaml"
    base = next(tmp_path.glob("*/config.json"))
    config = json.loads(base.read_text()) | {"dtype": stored}
    base.write_text(json.dumps(config))
    model = small_model(vocab_size=config["vocab_size"])
    layers = sum(p.numel() for name, p in model.named_parameters() if name.endswith("proj.weight"))
    rest = model.num_parameters() - layers
    assert min(layers, rest) > 1000
    assert launch.bytes_needed(stage, str(recipe), overrides) == round(of_layers * layers + of_the_rest * rest)


def test_a_base_that_an_adapter_is_merged_into_is_float32(tmp_path):
    recipe = make_setting(tmp_path) / "sft.yaml"
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace('"float32"', '"bfloat16"'))
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "base")}
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))
    whole, merged = (launch.bytes_needed("sft", str(recipe), ["lora.r=8", LOW, f"model.path={tmp_path / name}"])
                     for name in ("base", "adapter"))  # fmt: skip
    parameters = small_model(vocab_size=json.loads(config.read_text())["vocab_size"]).num_parameters()
    assert whole < merged == 4 * parameters


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_configuration_is_taken_with_a_process_for_every_gpu(name):
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    restarts = 0 if name == "multi_node" else 3
    told = launch.settings(name, 4, {"MACHINE_RANK": "1", "RESTARTS": str(restarts)})
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
        launch.settings("zero3", 0, {})
    assert str(error.value) == "HARDWARE=zero3 needs a GPU, and none is there; use HARDWARE=cpu or cpu_2"
    with pytest.raises(RecipeError) as error:
        launch.settings("none", 0, {})
    assert str(error.value) == f"HARDWARE=none is none of: auto {' '.join(CONFIGURATIONS)}"
    with pytest.raises(RecipeError) as error:
        launch.settings("multi_node", 4, {"RESTARTS": "3"})
    assert str(error.value) == "RESTARTS=3 is for one machine; leave it out with multi_node"
    (tmp_path / "mine.yaml").write_text(
        (launch.CONFIGURATIONS / "ddp.yaml").read_text() + "num_processes: 8\n"
    )  # fmt: skip
    monkeypatch.setattr(launch, "CONFIGURATIONS", tmp_path)
    with pytest.raises(RecipeError) as error:
        launch.settings("mine", 2, {})
    assert str(error.value) == f"HARDWARE=mine needs 8 GPUs, and 2 are there; see {tmp_path / 'mine.yaml'}"
    (tmp_path / "mine.yaml").write_text("distributed_type: MULTI_CPU\ncompute_environment: LOCAL_MACHINE\n")
    with pytest.raises(RecipeError) as error:
        launch.settings("mine", 0, {})
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
        f"error: process {rank} was ended by {names[ended[rank][0]]}; "
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


@pytest.mark.parametrize(
    ("flaw", "code", "said"),
    [
        ("first", 2, "error: before they have met\n"),
        ("both", 2, "error: a.jsonl:3: no such role\n"),
        ("one", 2, "error: only here\n"),
        ("killed", 137, "error: process 1 was ended by SIGKILL; the same command continues from the last checkpoint\n"),
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
    assert seconds < launch.GRACE
