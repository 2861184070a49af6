"""The ranks of a run: number, rendezvous port, accelerator, and shutdown.

On a machine without a GPU, a plain `Accelerator()` treats each of several launched CPU ranks as a run of its own.
Therefore the CPU is selected explicitly, and the number of ranks is compared with the number launched.
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

# On rank 0 of several: keeps the rendezvous port open.
_open_stores: list[torch.distributed.TCPStore] = []


def is_main_process() -> bool:
    """Return whether this is rank 0, the one that writes; works before the process group exists."""
    return int(os.environ.get("RANK", "0")) == 0


def launched_ranks() -> int:
    """Return the number of ranks that the launcher has started; works before the process group exists."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def start_accelerator(seed: int, model: Model, report_to: list[str], run_dir: str) -> Accelerator:
    """Return the accelerator of a stage without a TRL trainer, and seed all random number generators (collective).

    Raises RunError if not all launched ranks have joined.
    """
    keep_freed_memory()
    on_cpu = not torch.cuda.is_available()
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if deepspeed:
        disable_deepspeed_shared_memory()
        PartialState(cpu=on_cpu)  # Accelerator(cpu=True) would silently ignore DeepSpeed
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed,
        mixed_precision="bf16" if compute_dtype(model) == torch.bfloat16 else "no",
        step_scheduler_with_optimizer=False,
        log_with=report_to or None,
        project_dir=run_dir,
    )
    if deepspeed:
        # Models are sharded after loading; otherwise transformers would shard them while loading.
        unset_hf_deepspeed_config()
    check_all_ranks_joined(accelerator.num_processes)
    set_seed(seed)
    return accelerator


def disable_deepspeed_shared_memory() -> None:
    """Prevent DeepSpeed from compiling its shared-memory communication for CPU ranks, which is not used.

    A run that is killed while compiling leaves a lock behind, for which every later run on that machine waits forever.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def reserve_port() -> None:
    """On rank 0, open the rendezvous port before models are loaded, so that no other program takes it meanwhile.

    torch finds the open store and uses it. Raises RunError if the port is already taken.
    """
    launcher_holds_it = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if launched_ranks() == 1 or launcher_holds_it or os.environ["RANK"] != "0":
        return
    port = int(os.environ["MASTER_PORT"])
    try:
        _open_stores.append(open_store(port))
    except torch.distributed.DistNetworkError:
        raise RunError(
            f"port {port}, which the processes need to connect, is taken by another program; run the same command "
            "again, or if your accelerate configuration sets main_process_port, change it"
        ) from None


def open_store(port: int) -> torch.distributed.TCPStore:
    """Open a port (0: any free one) for the rendezvous of all launched ranks, for as long as the returned store exists."""
    return torch.distributed.TCPStore(
        "127.0.0.1", port, launched_ranks(), is_master=True, multi_tenant=True, wait_for_workers=False
    )


def check_all_ranks_joined(found: int) -> None:
    """Raise RunError if not all launched ranks have joined one group: otherwise each would do all the work."""
    if found != launched_ranks():
        raise RunError(
            f"{launched_ranks()} processes were launched but {found} found each other; "
            "use one of recipes/accelerate/*.yaml"
        )


def leave_group(accelerator: Accelerator) -> None:
    """Shut down the process group, if any (collective). Without this, gloo sometimes aborts or hangs at exit."""
    if torch.distributed.is_initialized():
        accelerator.wait_for_everyone()
        accelerator.free_memory()  # before the group is destroyed: DeepSpeed needs its rank here
        gc.collect()
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
