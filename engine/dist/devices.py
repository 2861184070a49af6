"""The device that a rank computes on: the computation's type, memory, and waiting for a GPU."""

import ctypes
import os
import re
import sys
from pathlib import Path

import torch

from config.sections import Model

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def compute_dtype(model: Model) -> torch.dtype:
    """Return the type that `model.dtype` names; `auto` is bfloat16 on a GPU that supports it well, else float32."""
    if model.dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]


def default_device() -> torch.device:
    """Return the device of a single process: the first GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Let glibc keep the memory that tensors of up to 32 MiB free (CPU only): each step asks for the same sizes again.

    Returned to the system, every page would cost a page fault when it is used again, 2 to 6 % of a PPO step. Does
    nothing where the user has set a MALLOC_ variable.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    set_by_user = any(name.startswith("MALLOC_") for name in os.environ)
    if mallopt is not None and not set_by_user and not torch.cuda.is_available():
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest value that glibc accepts
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def synchronise() -> None:
    """Wait until a GPU, if there is one, has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int:
    """Return the peak in bytes: of the GPU allocator where there is a GPU, else of the process's resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024
    import resource  # on Linux its figure begins with the peak of the parent process

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed: on a GPU, in torch's CPU allocator, or in Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
