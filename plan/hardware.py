"""The hardware that a run is planned for: the processes of an accelerate configuration and their devices."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from config import RecipeError
from engine.run import accelerate_config

GIB = 2**30
# GPUs in a machine, unless the configuration says otherwise.
GPUS_PER_MACHINE = 8
Sharing = Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp2"]


@dataclass(frozen=True)
class Device:
    memory: float | None
    """bytes; None: the RAM of this machine"""
    flops: float | None
    """operations per second of dense bfloat16 products, the manufacturer's figure; None: measured here"""
    bandwidth: float | None
    """bytes per second from its memory, the manufacturer's figure; None if decoding is not limited by it"""


DEVICES = {
    "cpu": Device(None, None, None),
    "h100": Device(79 * GIB, 989e12, 3.35e12),
    "h200": Device(139 * GIB, 989e12, 4.8e12),
    "a100": Device(79 * GIB, 312e12, 2.0e12),
    "a100-40": Device(39 * GIB, 312e12, 1.55e12),
    "l40s": Device(44 * GIB, 362e12, 0.86e12),
    "4090": Device(23 * GIB, 165e12, 1.0e12),
}


@dataclass(frozen=True)
class Hardware:
    name: str
    sharing: Sharing
    processes: int
    machines: int
    device_name: str
    memory: float
    """bytes of one device"""
    flops: float | None
    """operations per second of one device; None: to be measured"""
    bandwidth: float | None
    """bytes per second of one device's memory; None if decoding is not limited by it"""

    @property
    def cpu(self) -> bool:
        return self.device_name == "cpu"

    @property
    def usable(self) -> float:
        """Bytes of one device to plan with: a tenth is left for the driver, fragmentation and what is not counted."""
        return 0.9 * self.memory


def read_hardware(
    name: str | None, processes: int | None, device: str | None, memory_gib: float | None, tflops: float | None
) -> Hardware:
    """Return the hardware of a file in recipes/accelerate/; arguments that are not None replace its values.

    `name` has no suffix; None and "auto" stand for one process on this machine's device. Raise RecipeError if there is
    no such file.
    """
    values = _configuration(name)
    on_cpu = values.get("use_cpu", not list(Path("/dev").glob("nvidia[0-9]*")))
    device = device or ("cpu" if on_cpu else "h100")
    known, alone = DEVICES[device], values.get("distributed_type", "NO") == "NO"
    machines = int(values.get("num_machines") or 1)
    # A file without a number of processes gets one per GPU.
    count = processes or (1 if alone else int(values.get("num_processes") or GPUS_PER_MACHINE * machines))
    return Hardware(
        name or "none",
        sharing_of(values) if count > 1 else "none",
        count,
        max(machines, -(-count // GPUS_PER_MACHINE)),
        device,
        memory_gib * GIB if memory_gib else known.memory or this_machines_memory(),
        tflops * 1e12 if tflops else known.flops,
        known.bandwidth,
    )


def sharing_of(values: dict[str, Any]) -> Sharing:
    """Return how the processes of an accelerate configuration replicate or shard a model."""
    kind = values.get("distributed_type", "NO")
    if kind == "FSDP":
        return "fsdp2"
    if kind == "DEEPSPEED":
        stage = int((values.get("deepspeed_config") or {}).get("zero_stage", 2))
        return ("ddp", "zero1", "zero2", "zero3")[stage]
    return "none" if kind == "NO" else "ddp"


def this_machines_memory() -> float:
    """Return the machine's RAM in bytes."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return 1024.0 * int(next(line.split()[1] for line in lines if line.startswith("MemTotal")))


def _configuration(name: str | None) -> dict[str, Any]:
    if name in (None, "auto"):
        return {}
    if name not in (known := accelerate_config.names()):
        raise RecipeError(f"plan.hardware is {name}; it must be one of {' '.join(known)}", key="plan.hardware")
    return accelerate_config.read(name)
