"""The ranks of a run: how many were launched, where they meet, their accelerator, and how they leave together.

Plain `Accelerator()` on a machine without a GPU leaves several launched CPU ranks each believing to be alone, so the
choice of the CPU is made explicit and the number of ranks is compared with the number that was launched.
"""

import gc
import os

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from config.sections import Model
from engine.dist.devices import compute_dtype, keep_freed_memory
from engine.errors import RunError

# On rank 0 of several: the stores that keep the port open at which the ranks meet.
_open_stores: list[torch.distributed.TCPStore] = []


def is_main_process() -> bool:
    """Whether this is rank 0, the one that writes (known before any process group exists)."""
    return int(os.environ.get("RANK", "0")) == 0


def launched_ranks() -> int:
    """How many ranks the launcher says it has started; known before any of them has met another."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start_accelerator(seed: int, model: Model, report_to: list[str], run_dir: str) -> Accelerator:
    """The accelerator of a stage that has a loop of its own, with every random number generator seeded.

    Raises RunError if fewer ranks found each other than were launched.
    """
    keep_freed_memory()
    on_cpu = not torch.cuda.is_available()
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if deepspeed:
        leave_gloo_to_torch()
        PartialState(cpu=on_cpu)  # accelerate itself, when given cpu=True, would silently ignore DeepSpeed
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed,
        mixed_precision="bf16" if compute_dtype(model) == torch.bfloat16 else "no",
        step_scheduler_with_optimizer=False,
        log_with=report_to or None,
        project_dir=run_dir,
    )
    if deepspeed:
        # Models are loaded whole and sharded afterwards; transformers would shard them while loading.
        unset_hf_deepspeed_config()
    check_all_ranks_joined(accelerator.num_processes)
    set_seed(seed)
    return accelerator


def leave_gloo_to_torch() -> None:
    """Keep DeepSpeed from compiling its own shared-memory communication for CPU ranks, which nothing here uses.

    A run killed while it compiles leaves a lock for which every later run on that machine would wait forever.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def hold_port() -> None:
    """On rank 0, open the port at which the ranks will meet: loading may take minutes until they do, and another
    program could have taken the port by then. torch finds the open store and uses it.

    Raises RunError if the port is taken already.
    """
    launcher_holds_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if launched_ranks() == 1 or launcher_holds_it or os.environ["RANK"] != "0":
        return
    port = int(os.environ["MASTER_PORT"])
    try:
        _open_stores.append(open_store(port))
    except torch.distributed.DistNetworkError:
        raise RunError(
            f"port {port}, at which the processes would meet, is taken by another program; run the same command again, "
            "or where a configuration of accelerate names it, give main_process_port another"
        ) from None


def open_store(port: int) -> torch.distributed.TCPStore:
    """A port (0: any free one) at which all launched ranks can meet, open as long as the returned store lives."""
    return torch.distributed.TCPStore(
        "127.0.0.1", port, launched_ranks(), is_master=True, multi_tenant=True, wait_for_workers=False
    )


def check_all_ranks_joined(found: int) -> None:
    """Raise RunError if not all launched ranks are in one group: each would do the whole work by itself."""
    if found != launched_ranks():
        raise RunError(
            f"{launched_ranks()} processes were launched but {found} found each other; "
            "use one of recipes/accelerate/*.yaml"
        )


def leave_group(accelerator: Accelerator) -> None:
    """End a run of several ranks together (collective): without this, gloo sometimes aborts or hangs after the work."""
    if torch.distributed.is_initialized():
        accelerator.wait_for_everyone()
        accelerator.free_memory()  # before the group ends: DeepSpeed asks for its rank here
        gc.collect()
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
