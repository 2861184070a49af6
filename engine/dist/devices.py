"""The device of a rank: dtype of computations, memory, and synchronisation with a GPU."""

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
    """Return the dtype of `model.dtype`. `auto` is bfloat16 if a GPU supports it, otherwise float32."""
    if model.dtype == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]


def default_device() -> torch.device:
    """Return the device of a single process: the first GPU, or the CPU if there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> None:
    """Keep the memory of freed tensors of up to 32 MiB in the process (CPU, glibc): each step needs the same sizes.

    If glibc returned it to the system, page faults would cost 2 to 6 % of a PPO step. Does nothing if the user has set
    a MALLOC_ variable.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    set_by_user = any(name.startswith("MALLOC_") for name in os.environ)
    if mallopt is not None and not set_by_user and not torch.cuda.is_available():
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)  # the largest value that glibc accepts
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def synchronise() -> None:
    """Wait until the GPU, if any, has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int:
    """Return the peak memory in bytes: of torch's GPU allocator, or without a GPU of the process (resident set)."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024
    import resource  # on Linux its value starts at the peak of the parent process

    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def move(
    model: torch.nn.Module, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Move a model, in place, to a device or a dtype or both.

    A type checker takes `PreTrainedModel.to` for a function of the model alone, because of its decorator.
    """
    model.to(device, dtype)


def out_of_memory(error: Exception) -> bool:
    """Return whether the error is a failed allocation on a GPU, in torch's CPU allocator, or in Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
