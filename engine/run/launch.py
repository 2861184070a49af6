"""`python -m engine.run.launch HARDWARE STAGE RECIPE [key=value ...]`: a stage under a file of recipes/accelerate.

`auto` goes by what is there. Files that name no number of processes get one for every GPU. What the launcher itself
has to say when a process fails is left out: the process has said it, and its exit code is that of the launch.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from config import RecipeError, load_part
from config.schema import Recipe
from config.sections import Lora, Model, TrainingRun
from engine.run.folder import FINISHED
from engine.run.time_limit import OUT_OF_TIME

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

CONFIGURATIONS = Path(__file__).parents[2] / "recipes" / "accelerate"
# Seconds that processes have after SIGTERM or Ctrl-C: PPO finishes its step and saves.
PATIENCE = 300
# And after one of them has failed: torch's own figure (PContext.close).
GRACE = 30
# Bytes a parameter of the model in `model.path`, before activations: float32 weights, gradients and AdamW's two
# moments; PPO has two such models and two frozen ones in bfloat16.
BYTES = {"sft": 16, "reward": 16, "ppo": 2 * 16 + 2 * 2}
# And of a linear layer in 4 bits, its scales included.
IN_4BIT = 0.52
# How much of a GPU these may take; the rest is for activations.
SHARE = 0.7


@dataclass(frozen=True)
class Size(Recipe):
    """What of a recipe tells how much memory its models take."""

    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    models: str = "full"
    ppo: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Whose(Recipe):
    """What of a recipe tells where its run lies."""

    run: TrainingRun = field(default_factory=TrainingRun)


def pick(gpus: int, gpu_bytes: int, needed: int) -> str:
    """The configuration for a machine: `needed` bytes are what one process would hold of the models."""
    if gpus < 2:
        return "one_gpu" if gpus else "cpu"
    return "ddp" if needed <= SHARE * gpu_bytes else "fsdp2"


def bytes_needed(stage: str, recipe: str, overrides: list[str]) -> int:
    """What one process holds if nothing is shared out; the model's configuration is read, its weights are not.

    Under adapters the base's linear layers but the head are in 4 bits, or in bfloat16 where that is exact
    (engine/models/adapters.py); the rest of it is float32, of PPO's base in the type of the computation.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from engine.dist.devices import compute_dtype
    from engine.models.adapters import base_of, is_adapter
    from engine.models.loading import load_config

    size = load_part(Size, recipe, overrides)
    config = load_config(base_of(size.model.path), size.model)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters, ppo = model.num_parameters(), stage == "ppo"
    if not (size.models == "shared" if ppo else size.lora.r > 0):
        return parameters * BYTES[stage]
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    low = sum(layer.weight.numel() for layer in layers if layer is not model.get_output_embeddings())
    as_computed = compute_dtype(size.model).itemsize
    stored_low = config.dtype == torch.bfloat16 and not is_adapter(size.model.path)
    whole = as_computed if ppo else 4
    each = as_computed if ppo or stored_low else 4
    if size.ppo.get("load_in_4bit") or size.lora.load_in_4bit:
        each = IN_4BIT
    return round(low * each + (parameters - low) * whole)


def chosen(stage: str, recipe: str, overrides: list[str], gpus: int) -> str:
    """What HARDWARE=auto means here, said in a line."""
    gpu_bytes, needed, why = 0, 0, "no GPU"
    if gpus:
        import torch

        gpu_bytes, why = torch.cuda.get_device_properties(0).total_memory, f"{gpus} GPU{'s' if gpus > 1 else ''}"
    if gpus > 1:
        needed = bytes_needed(stage, recipe, overrides)
        why += f" of {gpu_bytes / 1e9:.0f} GB, models of {needed / 1e9:.0f} GB"
    hardware = pick(gpus, gpu_bytes, needed)
    print(f"HARDWARE=auto: {hardware}, {max(gpus, 1)} process{'es' if gpus > 1 else ''} ({why})", flush=True)
    return hardware


def settings(hardware: str, gpus: int, environment: Mapping[str, str]) -> list[str]:
    """accelerate's arguments for a configuration, none where that is one plain process.

    Of the environment it takes MACHINE_RANK, which of several machines this one is, and RESTARTS, how often all
    processes are started again when one dies.

    Raises RecipeError where it asks for GPUs that are not there, or would start one process without a word.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    file = CONFIGURATIONS / f"{hardware}.yaml"
    if not file.exists():
        names = " ".join(sorted(path.stem for path in CONFIGURATIONS.glob("*.yaml")))
        raise RecipeError(f"HARDWARE={hardware} is none of: auto {names}")
    asked = load_config_from_file(str(file))
    if asked.distributed_type == DistributedType.MULTI_CPU:
        raise RecipeError(f"{file}: accelerate starts one process for MULTI_CPU; write MULTI_GPU, and use_cpu: true")
    arguments = ["--config_file", str(file), "--max_restarts", environment.get("RESTARTS") or "0"]
    if asked.num_machines > 1:
        if environment.get("RESTARTS", "0") not in ("", "0"):
            raise RecipeError(f"RESTARTS={environment['RESTARTS']} is for one machine; leave it out with {hardware}")
        if "MACHINE_RANK" in environment:
            arguments += ["--machine_rank", environment["MACHINE_RANK"]]
    else:
        arguments += ["--main_process_port", "0"]  # any that is free
    if asked.use_cpu:
        return [] if asked.distributed_type == DistributedType.NO else arguments
    here = gpus if asked.num_processes < 1 else asked.num_processes // asked.num_machines
    if not gpus or here > gpus:
        raise RecipeError(
            f"HARDWARE={hardware} needs {here if gpus else 'a'} GPU{'s' if here > 1 else ''}, and {gpus or 'none'} "
            f"{'are' if gpus > 1 else 'is'} there; " + (f"see {file}" if gpus else "use HARDWARE=cpu or cpu_2")
        )
    if asked.distributed_type == DistributedType.NO:
        return []
    return [*arguments, "--num_processes", str(here * asked.num_machines)]


def launch(hardware: str, stage: str, recipe: str, *overrides: str) -> NoReturn:
    """Become the stage where that is one process, else start its processes; ends with their exit code."""
    import torch

    gpus = torch.cuda.device_count()
    if hardware == "auto":
        hardware = chosen(stage, recipe, list(overrides), gpus)
    if hardware.startswith("cpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    command, how = ["-m", stage, recipe, *overrides], settings(hardware, gpus, os.environ)
    if not how:
        os.execv(sys.executable, [sys.executable, *command])
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = launch_command_parser().parse_args([*how, *command])
    arguments.shutdown_timeout = PATIENCE
    if "--main_process_port" in how:  # one machine
        # Else processes that are started again find the addresses of those before, and wait for them.
        arguments.standalone, os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = True, "1"
        arguments.local_addr = "127.0.0.1"  # its own name need not be one that it can look up
        # Who lost whom is said in a line of ours; of several machines torch's own tell why they do not meet.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.disable(logging.CRITICAL)
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        sys.exit(exit_code(error.failures))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except (AssertionError, ConnectionError, ValueError) as error:  # of a configuration, or of a port in use
        raise RecipeError(f"HARDWARE={hardware}: {str(error).splitlines()[0]}") from None
    run = load_part(Whose, recipe, [override for override in overrides if override.startswith("run")]).run
    sys.exit(0 if (Path(run.dir) / FINISHED).is_file() else OUT_OF_TIME)


def exit_code(failures: Mapping[int, "ProcessFailure"]) -> int:
    """The launch's, of those of the processes that failed; a process that a signal ended is named, it could not speak.

    A signal comes first (what others say then is that they lost it), then the person's mistakes. What the launcher
    ended the others with does not count: SIGTERM, and SIGKILL for those that were still there GRACE seconds later.
    """
    ended = (-signal.SIGTERM, 128 + signal.SIGTERM)
    last = min(failure.timestamp for failure in failures.values()) + GRACE
    codes = {
        rank: failure.exitcode
        for rank, failure in failures.items()
        if failure.exitcode not in ended
        if failure.exitcode != -signal.SIGKILL or failure.timestamp < last
    }
    killed = {rank: -code for rank, code in codes.items() if code < 0}
    for rank, number in killed.items():
        print(
            f"error: process {rank} was ended by {signal.Signals(number).name}; "
            "the same command continues from the last checkpoint",
            file=sys.stderr,
        )
    if killed:
        return 128 + min(killed.values())
    return 2 if 2 in codes.values() else max(codes.values(), default=128 + signal.SIGTERM)


if __name__ == "__main__":
    try:
        launch(*sys.argv[1:])
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
