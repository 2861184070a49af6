"""HARDWARE=auto: choose the accelerate configuration for this machine from the plan of the recipe."""

import sys

import torch

from engine.errors import RunError
from plan.hardware import GIB, read_hardware
from plan.recipe import Planned
from plan.stages import Planning, planning


def print_choice(planned: Planned) -> None:
    """Print the name of the configuration to stdout, and the reason to stderr."""
    gpus = torch.cuda.device_count()
    memory = torch.cuda.get_device_properties(0).total_memory if gpus else 0
    name, reason = choose(planned, gpus, memory)
    print(f"HARDWARE=auto: {name}, {max(gpus, 1)} process{'es' if gpus > 1 else ''} ({reason})", file=sys.stderr)
    print(name)


def choose(planned: Planned, gpus: int, gpu_bytes: int) -> tuple[str, str]:
    """Return the configuration for a machine with `gpus` GPUs of `gpu_bytes` bytes each, and the reason in words.

    With several GPUs it is ddp (full models on each GPU) if that fits, or if the run cannot be planned or sharded, and
    fsdp2 otherwise.
    """
    if gpus < 2:
        return ("one_gpu", "1 GPU") if gpus else ("cpu", "no GPU")
    words = f"{gpus} GPUs of {gpu_bytes / 1e9:.0f} GB"
    try:
        plan = planned_on("ddp", planned, gpus, gpu_bytes)
        words += f", {plan.peak.total / 1e9:.0f} GB of each for full models"
        if not plan.fits:
            planned_on("fsdp2", planned, gpus, gpu_bytes)
            return "fsdp2", words
    except RunError as error:
        words += f"; {error}"
    return "ddp", words


def planned_on(name: str, planned: Planned, gpus: int, gpu_bytes: int) -> Planning:
    return planning(planned, hardware=read_hardware(name, gpus, "h100", gpu_bytes / GIB, None))
