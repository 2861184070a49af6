"""Processes, devices and precision, by way of accelerate.

Plain `Accelerator()` on a machine without a GPU leaves several launched CPU processes each believing to be alone, so
the choice of the CPU is made explicit and the number of processes is compared with the one that was launched.
"""

import ctypes
import gc
import os
import re
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from engine.run.folder import RunError
from recipes.sections import Model

# Of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# Of the first process of several, what keeps the port open at which they meet.
_held: list[torch.distributed.TCPStore] = []


def compute_dtype(model: Model) -> torch.dtype:
    """What `model.dtype` means on this machine; `auto` is bfloat16 on a GPU that is good at it, else float32."""
    if model.dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]


def start(seed: int, model: Model, report_to: list[str], run_dir: str) -> Accelerator:
    """The accelerator of a stage with a loop of its own, every random number generator seeded.

    Raises RunError if fewer processes found each other than were launched.
    """
    keep_freed_memory()
    on_cpu = not torch.cuda.is_available()
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
    if deepspeed:
        leave_gloo_to_torch()
        PartialState(cpu=on_cpu)  # accelerate, told of the CPU itself, would leave DeepSpeed out without a word
    accelerator = Accelerator(
        cpu=on_cpu and not deepspeed,
        mixed_precision="bf16" if compute_dtype(model) == torch.bfloat16 else "no",
        step_scheduler_with_optimizer=False,
        log_with=report_to or None,
        project_dir=run_dir,
    )
    if deepspeed:
        unset_hf_deepspeed_config()  # models are loaded whole, then shared out; told of ZeRO-3, transformers would not
    check_processes(accelerator.num_processes)
    set_seed(seed)
    return accelerator


def keep_freed_memory() -> None:
    """Let glibc keep what tensors of up to 32 MiB free, on a CPU: each step asks for the same sizes again.

    Given back to the system, every page would cost a fault when it comes again, 2 to 6 % of a PPO step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    told = any(name.startswith("MALLOC_") for name in os.environ)  # by the person, who knows better
    if mallopt is not None and not told and not torch.cuda.is_available():
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest that glibc takes
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def leave_gloo_to_torch() -> None:
    """Keep DeepSpeed from compiling a way of its own for CPU processes of one machine to talk, which nothing here uses.

    A run killed while it compiles leaves a lock for which every later run on that machine would wait without an end.
    """
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def launched() -> int:
    """How many processes the launcher says it has started; known before any of them has met another."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def hold_port() -> None:
    """Open the port at which the processes will meet, in the first of them: loading may take minutes until they do,
    and any other program could have taken it by then. torch finds what is open here and takes it.

    Raises RunError if it is taken already.
    """
    there = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # the launcher holds it
    if launched() == 1 or there or os.environ["RANK"] != "0":
        return
    port = int(os.environ["MASTER_PORT"])
    try:
        _held.append(opened(port))
    except torch.distributed.DistNetworkError:
        raise RunError(
            f"port {port}, at which the processes would meet, is taken by another program; run the same command again, "
            "or where a configuration of accelerate names it, give main_process_port another"
        ) from None


def opened(port: int) -> torch.distributed.TCPStore:
    """A port (0: any that is free) at which as many processes can meet as were launched, open as long as this lives."""
    return torch.distributed.TCPStore(
        "127.0.0.1", port, launched(), is_master=True, multi_tenant=True, wait_for_workers=False
    )


def check_processes(found: int) -> None:
    """Raises RunError if not all launched processes are in one group: each would do the whole work by itself."""
    if found != launched():
        raise RunError(
            f"{launched()} processes were launched but {found} found each other; use one of recipes/accelerate/*.yaml"
        )


def leave(accelerator: Accelerator) -> None:
    """End a run of several processes together: without this, gloo now and then aborts or hangs after the work."""
    if torch.distributed.is_initialized():
        accelerator.wait_for_everyone()
        accelerator.free_memory()  # before the group ends: DeepSpeed asks for its rank here
        gc.collect()
    accelerator.end_training()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def synchronise() -> None:
    """Wait until a GPU, if there is one, has done all that it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int:
    """Bytes: the GPU allocator's peak where there is a GPU, else the process's peak resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024
    import resource  # on Linux its figure begins with the peak of whoever started this process

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
