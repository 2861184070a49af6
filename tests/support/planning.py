"""Compare planned with measured memory for runs that shard a model over two ranks (see bench/planning.py).

    python -m tests.support.planning [SETTING ...]       all of them by default; a table, and runs/bench/planning.json

It is part of the tests because only tests/support/processes.py can shard on a CPU. The measured figure is that of the
rank with the higher peak.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from bench.planning import Setting, main, measure_run
from tests.support.processes import run_on_ranks

SETTINGS: dict[str, Setting] = {
    "sft, fsdp2": Setting("sft", 512, 8, 8, 8, 1408, 32000, False, 1024, (
        "trainer.per_device_train_batch_size=2",), hardware="fsdp2"),
    "ppo, fsdp2": Setting("ppo", 512, 8, 8, 4, 1408, 32000, False, 256, hardware="fsdp2"),
    "ppo, fsdp2, split": Setting("ppo", 512, 8, 8, 4, 1408, 64000, False, 256, (
        "sampling.split=2", "ppo.gradient_checkpointing=true"), hardware="fsdp2"),
    "sft, zero2": Setting("sft", 512, 8, 8, 8, 1408, 32000, False, 1024, hardware="zero2"),
    "sft, zero3": Setting("sft", 512, 8, 8, 8, 1408, 32000, False, 1024, hardware="zero3"),
    # Settings chosen after the formulas for sharded models were fixed.
    "reward, fsdp2": Setting("reward", 512, 10, 8, 4, 1408, 26000, True, 448, (
        "trainer.per_device_train_batch_size=4",), frozen=True, hardware="fsdp2"),
    "sft, LoRA, fsdp2": Setting("sft", 768, 8, 12, 4, 2048, 32000, False, 1024, (
        "lora.r=16", "lora.merge=false", "trainer.per_device_train_batch_size=2"), frozen=True, hardware="fsdp2"),
    "ppo, zero2": Setting("ppo", 384, 6, 6, 6, 1024, 32000, True, 192, frozen=True, hardware="zero2"),
    # Chosen after the formula for adapters in sharded models was corrected.
    "sft, LoRA, Qwen3, fsdp2": Setting("sft", 640, 9, 10, 5, 1664, 44000, False, 704, (
        "lora.r=8", "lora.merge=false", "trainer.gradient_checkpointing=true",
        "trainer.per_device_train_batch_size=2"), "qwen3", True, "fsdp2"),
    "sft, LoRA, bfloat16, fsdp2": Setting("sft", 896, 12, 14, 2, 2432, 24000, False, 512, (
        "lora.r=16", "lora.merge=false", "model.dtype=bfloat16", "trainer.gradient_checkpointing=true"), frozen=True,
        hardware="fsdp2"),
    # Second round, chosen after the errors that the first one showed were fixed and the storage of adapters changed.
    "sft, fsdp2, checkpointing": Setting("sft", 576, 9, 9, 3, 1536, 28000, True, 768, (
        "trainer.gradient_checkpointing=true", "trainer.per_device_train_batch_size=2"), frozen=True, hardware="fsdp2"),
    "reward, LoRA, zero3": Setting("reward", 640, 8, 10, 5, 1792, 30000, False, 512, (
        "lora.r=16", "lora.merge=false", "trainer.per_device_train_batch_size=2"), frozen=True, hardware="zero3"),
    "ppo, zero3": Setting("ppo", 448, 7, 7, 7, 1280, 30000, True, 224, (
        "ppo.gradient_checkpointing=true",), frozen=True, hardware="zero3"),
    # Third round, chosen after the errors that the second one showed were fixed.
    "reward, zero3": Setting("reward", 512, 9, 8, 4, 1536, 34000, False, 384, (
        "trainer.gradient_checkpointing=true", "trainer.per_device_train_batch_size=2"), frozen=True, hardware="zero3"),
    "sft, LoRA, tied, fsdp2": Setting("sft", 704, 8, 11, 11, 1920, 26000, True, 640, (
        "lora.r=32", "lora.merge=false", "trainer.per_device_train_batch_size=2"), frozen=True, hardware="fsdp2"),
    # Chosen after ZeRO-3's prefetched parameters were counted.
    "sft, LoRA, Qwen3, zero3": Setting("sft", 704, 9, 11, 11, 1920, 28000, False, 640, (
        "lora.r=16", "lora.merge=false", "trainer.per_device_train_batch_size=2"), "qwen3", True, "zero3"),
    "reward, Qwen3, zero3": Setting("reward", 576, 10, 9, 3, 1664, 24000, True, 448, (
        "trainer.per_device_train_batch_size=2",), "qwen3", True, "zero3"),
}  # fmt: skip


def measure_peak(setting: dict[str, Any], home: str) -> dict[str, float]:
    """Return the stage's peak memory in MiB above that after the imports, the larger of two ranks."""
    shutil.rmtree(f"{home}/run", ignore_errors=True)
    return {"mib": max(run_on_ranks(measure_rank, setting, home, hardware=setting["hardware"], timeout=600))}


def measure_rank(setting: dict[str, Any], home: str) -> float:
    """Return one rank's peak memory in MiB; modules that DeepSpeed imports when it starts (80 MiB) are not counted."""
    if setting["hardware"].startswith("zero"):
        import deepspeed.compile.backend
        import deepspeed.runtime.engine  # noqa: F401
    return measure_run(setting, home)


if __name__ == "__main__":
    asked = {name: SETTINGS[name] for name in sys.argv[1:] or SETTINGS}
    main(asked, Path("runs/bench"), side="tests.support.planning:measure_peak")
