"""Work in several CPU processes that know of each other, plain (DDP) or sharded: gloo, settings of recipes/accelerate.

    together(function, *arguments, processes=2)                      what function(*arguments) returns in each, by rank
    run_stage("sft", recipe, "run.dir=…", processes=2, hardware="fsdp2")    a whole stage, as its entry point runs it

The processes are forked from a server that has imported the stages once, so a launch takes no seconds. In each it is
asserted that the group had as many processes as were started and was sharded as asked: without that, a run of two
that each believe to be alone would pass for one of two.
"""

import faulthandler
import gc
import importlib
import multiprocessing
import multiprocessing.connection
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.paths import ROOT

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["sft.train", "reward.train", "ppo.train", "engine.run.entry", "tests.support.stage_runs"]
)

SCHEMAS = {"sft": "SFT", "reward": "Reward", "ppo": "PPO"}
KINDS = {"ddp": "MULTI_CPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


class MemberError(Exception):
    """What a process raised, with its traceback, where it was no mistake of the person's."""


def together(
    function: Callable[..., Any], *arguments: Any, processes: int = 2, hardware: str = "ddp", timeout: float = 500
) -> list[Any]:
    """Results by rank. The first process that fails ends it: RecipeError as it was raised, MemberError for the rest.

    `function` stands at the top of a module and makes an Accelerator; `hardware` is a key of KINDS. What prints goes to
    the terminal and not to capsys.
    """
    port, deadline = 0, time.monotonic() + timeout
    settings, members = environment(hardware, processes), {}
    for rank in range(processes):
        ours, theirs = SERVER.Pipe()
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        variables = settings | {name: str(value) for name, value in group.items()}
        member = SERVER.Process(target=_member, args=(theirs, variables, hardware, timeout, function, arguments))
        member.daemon = True
        member.start()
        theirs.close()
        members[ours] = (rank, member)
        if rank == 0:
            port = ours.recv()
    results: dict[int, Any] = {}
    try:
        pending = set(members)
        while pending:
            ready = multiprocessing.connection.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise MemberError(f"no end after {timeout} s; finished: {sorted(results)}")
            said = {members[end][0]: _said(end) for end in ready}
            for rank, result in said.items():  # first of all, since others then say that they have lost it
                if result is None:
                    raise MemberError(f"process {rank} died")
            for rank, (done, value) in said.items():
                if not done:
                    raise value
                results[rank] = value
            pending -= set(ready)
        for rank, member in members.values():
            member.join(max(0.0, deadline - time.monotonic()))
            assert member.exitcode == 0, f"process {rank} left with {member.exitcode}"
    finally:
        for _, member in members.values():
            if member.is_alive():
                member.kill()
                member.join()
    return [results[rank] for rank in range(processes)]


def run_stage(
    stage: str, recipe: Path | str, *overrides: str, processes: int = 2, hardware: str = "ddp", timeout: float = 500
) -> None:
    """Run `python -m STAGE RECIPE overrides` to its end in `processes` processes."""
    together(
        _stage, stage, str(recipe), list(overrides), processes=processes, hardware=hardware, timeout=timeout
    )  # fmt: skip


def environment(hardware: str, processes: int) -> dict[str, str]:
    """What `accelerate launch` tells its processes of the shipped configuration."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    arguments = launch_command_parser().parse_args(
        ["--config_file", str(ROOT / "recipes" / "accelerate" / f"{hardware}.yaml"), "--num_processes",
         str(max(processes, 2)), "--main_process_port", "0", "-m", "stage"]
    )  # fmt: skip
    arguments, defaults, _ = _validate_launch_command(arguments)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        told = prepare_deepspeed_cmd_env(arguments)[1]
    else:
        told = prepare_multi_gpu_env(arguments)
    prefixes = ("ACCELERATE_", "FSDP_")
    ours = {"OMP_NUM_THREADS": "1", "TORCH_EXTENSIONS_DIR": os.devnull}  # nothing is to be compiled: it fails there
    return {name: value for name, value in told.items() if name.startswith(prefixes)} | ours


def _said(end: Any) -> tuple[bool, Any] | None:
    """What a process has sent, None if it has died."""
    try:
        return end.recv()
    except EOFError:
        return None


def _stage(stage: str, recipe: str, overrides: list[str]) -> None:
    from config import load

    schema = getattr(importlib.import_module(f"{stage}.recipe"), SCHEMAS[stage])
    importlib.import_module(f"{stage}.train").train(load(schema, recipe, overrides))


def _member(
    end: Any,
    variables: dict[str, str],
    hardware: str,
    timeout: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """One process of `together`: sends (True, result) or (False, exception); says where it is if it hangs."""
    gc.freeze()  # what was imported is no garbage, and looking at it takes longer than a step
    os.environ.update(variables)
    faulthandler.dump_traceback_later(0.9 * timeout)
    import torch
    from accelerate.state import AcceleratorState

    from config import RecipeError
    from engine.dist.ranks import open_store

    torch.set_num_threads(1)
    if variables["RANK"] == "0":
        # The group meets at a port that is open already, so that nothing else takes it in between.
        store = open_store(0)
        os.environ["MASTER_PORT"] = str(store.port)
        end.send(store.port)
    if hardware == "fsdp2":
        fsdp2_on_cpu()
    found, join = [], torch.distributed.init_process_group

    def joined(*args: Any, **kwargs: Any) -> None:
        join(*args, **kwargs)
        found.append(torch.distributed.get_world_size())

    torch.distributed.init_process_group = joined
    try:
        result = function(*arguments)
        launched = int(variables["WORLD_SIZE"])
        assert found == [launched], f"{launched} processes, found {found}"
        kind = AcceleratorState._shared_state["distributed_type"].value
        assert kind == KINDS[hardware], f"ran as {kind}, not as {hardware}"
        if torch.distributed.is_initialized():  # the others may still be at work with this one
            torch.distributed.barrier()
        end.send((True, result))
        return
    except RecipeError as error:
        end.send((False, error))
    except BaseException:
        end.send((False, MemberError(f"process {variables['RANK']}:\n{traceback.format_exc()}")))
    end.poll(timeout)  # until it is killed: others that lost it would fail as well, and might be heard first


def fsdp2_on_cpu() -> None:
    """Let accelerate shard on a CPU: its state looks at the FSDP plugin on accelerator devices alone."""
    import accelerate.state
    from accelerate.utils import DistributedType

    made = accelerate.state.AcceleratorState.__init__

    def make(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            shared = accelerate.state.PartialState._shared_state
            self.distributed_type = shared["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    accelerate.state.AcceleratorState.__init__ = make
