"""`python -m engine.run.launch HARDWARE STAGE RECIPE [key=value ...]`: run a stage with a file of recipes/accelerate/.

If the file does not set the number of processes, one per GPU is started. The launcher's own messages about a failed
process are not printed: the process has printed its error, and the launch exits with its exit code.
"""

import logging
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from config import RecipeError, load
from config.schema import Recipe
from config.sections import TrainingRun
from config.threads import choose_wait_policy
from engine.run import accelerate_config
from engine.run.folder import FINISHED
from engine.run.time_limit import OUT_OF_TIME

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

# Time for processes to exit after SIGTERM or Ctrl-C: PPO finishes its step and saves.
SHUTDOWN_SECONDS = 300
# Time for the other processes to exit after one has failed: torch's own value (PContext.close).
GRACE_SECONDS = 30


@dataclass(frozen=True)
class RunSection(Recipe):
    """The section `run` of any stage's recipe."""

    run: TrainingRun = field(default_factory=TrainingRun)


def accelerate_arguments(hardware: str, gpus: int, environment: Mapping[str, str]) -> list[str]:
    """Return accelerate's arguments for a configuration; [] if it needs only one plain process.

    Args:
        hardware: name of the configuration.
        gpus: number of GPUs in this machine.
        environment: environment variables. MACHINE_RANK is the rank of this machine among several, RESTARTS how often
            all processes are restarted when one dies.

    Raises RecipeError if the configuration does not exist, needs more GPUs than there are, or would silently start one
    process only.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    if hardware not in (names := accelerate_config.names()):
        raise RecipeError(f"HARDWARE={hardware} does not exist; use one of: auto {' '.join(names)}")
    file = accelerate_config.path_of(hardware)
    asked = load_config_from_file(str(file))
    if asked.distributed_type == DistributedType.MULTI_CPU:
        raise RecipeError(f"{file}: accelerate starts one process for MULTI_CPU; write MULTI_GPU, and use_cpu: true")
    arguments = ["--config_file", str(file), "--max_restarts", environment.get("RESTARTS") or "0"]
    if asked.num_machines > 1:
        if environment.get("RESTARTS", "0") not in ("", "0"):
            raise RecipeError(f"RESTARTS={environment['RESTARTS']} needs one machine; leave it out with {hardware}")
        if "MACHINE_RANK" in environment:
            arguments += ["--machine_rank", environment["MACHINE_RANK"]]
    else:
        arguments += ["--main_process_port", "0"]  # any free port
    if asked.use_cpu:
        return [] if asked.distributed_type == DistributedType.NO else arguments
    here = gpus if asked.num_processes < 1 else asked.num_processes // asked.num_machines
    if not gpus or here > gpus:
        raise RecipeError(
            f"HARDWARE={hardware} needs {here if gpus else 'a'} GPU{'s' if here > 1 else ''}, and this machine has "
            f"{gpus or 'none'}; " + (f"see {file}" if gpus else "use HARDWARE=cpu or cpu_2")
        )
    if asked.distributed_type == DistributedType.NO:
        return []
    return [*arguments, "--num_processes", str(here * asked.num_machines)]


def launch(hardware: str, stage: str, recipe: str, *overrides: str) -> NoReturn:
    """Run a stage: replace this process by it if one is enough, otherwise start several and exit with their code."""
    choose_wait_policy()
    import torch

    gpus = torch.cuda.device_count()
    if hardware.startswith("cpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    command, how = ["-m", stage, recipe, *overrides], accelerate_arguments(hardware, gpus, os.environ)
    if not how:
        os.execv(sys.executable, [sys.executable, *command])
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = launch_command_parser().parse_args([*how, *command])
    arguments.shutdown_timeout = SHUTDOWN_SECONDS
    if "--main_process_port" in how:  # one machine
        # Otherwise restarted processes would find the addresses of the earlier processes, and wait for them.
        arguments.standalone, os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = True, "1"
        arguments.local_addr = "127.0.0.1"  # a machine cannot always resolve its own host name
        # Lost ranks are reported in one line below. On several machines torch's messages explain a failed rendezvous.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.disable(logging.CRITICAL)
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        sys.exit(exit_code(error.failures))
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except (AssertionError, ConnectionError, ValueError) as error:  # a wrong configuration, or a port in use
        raise RecipeError(f"HARDWARE={hardware}: {str(error).splitlines()[0]}") from None
    ours = [override for override in overrides if override.startswith(("run", "stage="))]
    run = load(RunSection, recipe, ours, other_sections=True).run
    sys.exit(0 if (Path(run.dir) / FINISHED).is_file() else OUT_OF_TIME)


def exit_code(failures: Mapping[int, "ProcessFailure"]) -> int:
    """Return the exit code of a launch whose processes failed, and print which ranks were killed by a signal.

    Ranks killed by a signal are reported here, since they could not report themselves. Their signal has precedence (the
    other ranks only fail because they lost them), then the user's errors (2). The launcher's own SIGTERM, and its
    SIGKILL of ranks that are still running after GRACE_SECONDS, are ignored.
    """
    ended = (-signal.SIGTERM, 128 + signal.SIGTERM)
    last = min(failure.timestamp for failure in failures.values()) + GRACE_SECONDS
    codes = {
        rank: failure.exitcode
        for rank, failure in failures.items()
        if failure.exitcode not in ended
        if failure.exitcode != -signal.SIGKILL or failure.timestamp < last
    }
    killed = {rank: -code for rank, code in codes.items() if code < 0}
    for rank, number in killed.items():
        print(
            f"error: process {rank} was killed by {signal.Signals(number).name}; "
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
