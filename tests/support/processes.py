"""Run functions and stages on several CPU ranks with gloo, under DDP or sharded, with the files of recipes/accelerate.

    run_on_ranks(function, *arguments, processes=2)                     what function(*arguments) returns, by rank
    run_stage("sft", recipe, "run.dir=…", processes=2, hardware="fsdp2")    a whole stage, as its entry point runs it

The ranks are forked from a server that has imported the stages once, so a launch takes less than a second. Each rank
asserts that the process group has the size that was started and is sharded as asked. Otherwise two separate runs of one
process would pass as one run of two ranks.
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

from tests.support.compat import launch_arguments, shared_state
from tests.support.paths import ROOT

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["sft.train", "reward.train", "ppo.train", "engine.run.entry", "tests.support.stage_runs"]
)

SCHEMAS = {"sft": "SFT", "reward": "Reward", "ppo": "PPO"}
KINDS = {"ddp": "MULTI_CPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


class RankError(Exception):
    """A rank died, hung, or raised another exception than RecipeError; the message holds the traceback."""


def run_on_ranks(
    function: Callable[..., Any], *arguments: Any, processes: int = 2, hardware: str = "ddp", timeout: float = 500
) -> list[Any]:
    """Run `function(*arguments)` on every rank and return the results by rank.

    `function` is defined at module level and makes an Accelerator; `hardware` is a key of KINDS; `timeout` is in
    seconds. Output goes to the terminal, not to capsys. The first rank that fails ends the others: a RecipeError is
    raised unchanged, any other failure as a RankError.
    """
    port, deadline = 0, time.monotonic() + timeout
    settings, ranks = environment(hardware, processes), {}
    for rank in range(processes):
        parent_end, rank_end = SERVER.Pipe()
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
        variables = settings | {name: str(value) for name, value in group.items()}
        process = SERVER.Process(target=_run_rank, args=(rank_end, variables, hardware, timeout, function, arguments))
        process.daemon = True
        process.start()
        rank_end.close()
        ranks[parent_end] = (rank, process)
        if rank == 0:
            port = parent_end.recv()
    results: dict[int, Any] = {}
    try:
        pending = set(ranks)
        while pending:
            ready = multiprocessing.connection.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise RankError(f"not finished after {timeout} s; finished ranks: {sorted(results)}")
            received = {ranks[end][0]: _received(end) for end in ready}
            for rank, message in received.items():  # checked first: when one rank dies, the others fail as well
                if message is None:
                    raise RankError(f"rank {rank} died")
            for rank, (done, value) in received.items():
                if not done:
                    raise value
                results[rank] = value
            pending -= set(ready)
        for rank, process in ranks.values():
            process.join(max(0.0, deadline - time.monotonic()))
            assert process.exitcode == 0, f"rank {rank} exited with {process.exitcode}"
    finally:
        for _, process in ranks.values():
            if process.is_alive():
                process.kill()
                process.join()
    return [results[rank] for rank in range(processes)]


def run_stage(
    stage: str, recipe: Path | str, *overrides: str, processes: int = 2, hardware: str = "ddp", timeout: float = 500
) -> None:
    """Run `python -m STAGE RECIPE overrides` to its end on `processes` ranks."""
    run_on_ranks(
        _stage, stage, str(recipe), list(overrides), processes=processes, hardware=hardware, timeout=timeout
    )  # fmt: skip


def environment(hardware: str, processes: int) -> dict[str, str]:
    """Return the environment variables that `accelerate launch` sets for a file of recipes/accelerate."""
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    arguments, defaults = launch_arguments(
        ["--config_file", str(ROOT / "recipes" / "accelerate" / f"{hardware}.yaml"), "--num_processes",
         str(max(processes, 2)), "--main_process_port", "0", "-m", "stage"]
    )  # fmt: skip
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        launched = prepare_deepspeed_cmd_env(arguments)[1]
    else:
        launched = prepare_multi_gpu_env(arguments)
    prefixes = ("ACCELERATE_", "FSDP_")
    added = {"OMP_NUM_THREADS": "1", "TORCH_EXTENSIONS_DIR": os.devnull}  # makes compiling an extension fail
    return {name: value for name, value in launched.items() if name.startswith(prefixes)} | added


def _received(end: Any) -> tuple[bool, Any] | None:
    """Return what a rank has sent, None if it has died."""
    try:
        return end.recv()
    except EOFError:
        return None


def _stage(stage: str, recipe: str, overrides: list[str]) -> None:
    from config import load

    schema = getattr(importlib.import_module(f"{stage}.recipe"), SCHEMAS[stage])
    importlib.import_module(f"{stage}.train").train(load(schema, recipe, overrides))


def _run_rank(
    end: Any,
    variables: dict[str, str],
    hardware: str,
    timeout: float,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Run one rank: send (True, result) or (False, exception); print the stack if it hangs."""
    gc.freeze()  # collecting imported objects takes longer than a step
    os.environ.update(variables)
    faulthandler.dump_traceback_later(0.9 * timeout)
    import torch
    from accelerate.state import AcceleratorState

    from config import RecipeError
    from engine.dist.ranks import open_store

    torch.set_num_threads(1)
    if variables["RANK"] == "0":
        # The port stays open from here until the ranks connect, so that no other program can take it.
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
        assert found == [launched], f"{launched} ranks, found {found}"
        kind = shared_state(AcceleratorState)["distributed_type"].value
        assert kind == KINDS[hardware], f"ran as {kind}, not as {hardware}"
        if torch.distributed.is_initialized():  # other ranks may still need this one
            torch.distributed.barrier()
        end.send((True, result))
        return
    except RecipeError as error:
        end.send((False, error))
    except BaseException:
        end.send((False, RankError(f"rank {variables['RANK']}:\n{traceback.format_exc()}")))
    end.poll(timeout)  # wait to be killed: if this rank left, the others would fail too and might report first


def fsdp2_on_cpu() -> None:
    """Let accelerate shard on a CPU: its state reads the FSDP plugin only on accelerator devices."""
    import accelerate.state
    from accelerate.utils import DistributedType

    made = accelerate.state.AcceleratorState.__init__

    def make(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            shared = shared_state(accelerate.state.PartialState)
            self.distributed_type = shared["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    accelerate.state.AcceleratorState.__init__ = make
