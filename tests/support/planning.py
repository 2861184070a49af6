"""What a plan says beside what its run takes where two processes share a model: bench/planning.py's work.

    python -m tests.support.planning [SETTING ...]       all of them by default; a table, and runs/bench/planning.json

It stands among the tests because only these can shard on a CPU (tests/support/processes.py). Measured is the fuller
process.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

from bench.planning import Setting, main, measure_run
from tests.support.processes import together

SETTINGS: dict[str, Setting] = {
    "sft, fsdp2": Setting("sft", 512, 8, 8, 8, 1408, 32000, False, 1024, (
        "trainer.per_device_train_batch_size=2",), hardware="fsdp2"),
    "ppo, fsdp2": Setting("ppo", 512, 8, 8, 4, 1408, 32000, False, 256, hardware="fsdp2"),
    "ppo, fsdp2, split": Setting("ppo", 512, 8, 8, 4, 1408, 64000, False, 256, (
        "sampling.split=2", "ppo.gradient_checkpointing=true"), hardware="fsdp2"),
    "sft, zero2": Setting("sft", 512, 8, 8, 8, 1408, 32000, False, 1024, hardware="zero2"),
    "sft, zero3": Setting("sft", 512, 8, 8, 8, 1408, 32000, False, 1024, hardware="zero3"),
    # Chosen after the formulas of shared models were.
    "reward, fsdp2": Setting("reward", 512, 10, 8, 4, 1408, 26000, True, 448, (
        "trainer.per_device_train_batch_size=4",), frozen=True, hardware="fsdp2"),
    "sft, LoRA, fsdp2": Setting("sft", 768, 8, 12, 4, 2048, 32000, False, 1024, (
        "lora.r=16", "lora.merge=false", "trainer.per_device_train_batch_size=2"), frozen=True, hardware="fsdp2"),
    "ppo, zero2": Setting("ppo", 384, 6, 6, 6, 1024, 32000, True, 192, frozen=True, hardware="zero2"),
    # Chosen after that of adapters in shared models was mended.
    "sft, LoRA, Qwen3, fsdp2": Setting("sft", 640, 9, 10, 5, 1664, 44000, False, 704, (
        "lora.r=8", "lora.merge=false", "trainer.gradient_checkpointing=true",
        "trainer.per_device_train_batch_size=2"), "qwen3", True, "fsdp2"),
    "sft, LoRA, bfloat16, fsdp2": Setting("sft", 896, 12, 14, 2, 2432, 24000, False, 512, (
        "lora.r=16", "lora.merge=false", "model.dtype=bfloat16", "trainer.gradient_checkpointing=true"), frozen=True,
        hardware="fsdp2"),
    # A second round, after the first one's faults were mended and adapters were held otherwise.
    "sft, fsdp2, checkpointing": Setting("sft", 576, 9, 9, 3, 1536, 28000, True, 768, (
        "trainer.gradient_checkpointing=true", "trainer.per_device_train_batch_size=2"), frozen=True, hardware="fsdp2"),
    "reward, LoRA, zero3": Setting("reward", 640, 8, 10, 5, 1792, 30000, False, 512, (
        "lora.r=16", "lora.merge=false", "trainer.per_device_train_batch_size=2"), frozen=True, hardware="zero3"),
    "ppo, zero3": Setting("ppo", 448, 7, 7, 7, 1280, 30000, True, 224, (
        "ppo.gradient_checkpointing=true",), frozen=True, hardware="zero3"),
    # After what that round had missed was mended.
    "reward, zero3": Setting("reward", 512, 9, 8, 4, 1536, 34000, False, 384, (
        "trainer.gradient_checkpointing=true", "trainer.per_device_train_batch_size=2"), frozen=True, hardware="zero3"),
    "sft, LoRA, tied, fsdp2": Setting("sft", 704, 8, 11, 11, 1920, 26000, True, 640, (
        "lora.r=32", "lora.merge=false", "trainer.per_device_train_batch_size=2"), frozen=True, hardware="fsdp2"),
    # After ZeRO-3's gathering ahead was counted.
    "sft, LoRA, Qwen3, zero3": Setting("sft", 704, 9, 11, 11, 1920, 28000, False, 640, (
        "lora.r=16", "lora.merge=false", "trainer.per_device_train_batch_size=2"), "qwen3", True, "zero3"),
    "reward, Qwen3, zero3": Setting("reward", 576, 10, 9, 3, 1664, 24000, True, 448, (
        "trainer.per_device_train_batch_size=2",), "qwen3", True, "zero3"),
}  # fmt: skip


def measured(setting: dict[str, Any], home: str) -> dict[str, float]:
    """MiB of the stage in two processes, above what stood after the imports."""
    shutil.rmtree(f"{home}/run", ignore_errors=True)
    return {"mib": max(together(imported_and_run, setting, home, hardware=setting["hardware"], timeout=600))}


def imported_and_run(setting: dict[str, Any], home: str) -> float:
    """MiB of one process. What DeepSpeed imports while it starts, some 80, is imported before it counts."""
    if setting["hardware"].startswith("zero"):
        import deepspeed.compile.backend
        import deepspeed.runtime.engine  # noqa: F401
    return measure_run(setting, home)


if __name__ == "__main__":
    asked = {name: SETTINGS[name] for name in sys.argv[1:] or SETTINGS}
    main(asked, Path("runs/bench"), side="tests.support.planning:measured")
