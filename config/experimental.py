"""What has not been run where it is meant to run: declared here once, printed by runs that use it.

The table in docs/performance.md has a row for each feature, and a list of the checks after which it is removed here and
there. A test compares both.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

PAGE = "docs/performance.md#experimental"


@dataclass(frozen=True)
class Machine:
    """Where a run takes place; the default is one rank on the CPU of a Linux machine."""

    gpu: bool = False
    """whether models run on an NVIDIA GPU"""
    ranks: int = 1
    hosts: int = 1
    sharding: str = "none"
    """none, fsdp2, zero2 or zero3"""
    flash_attention: bool = False
    """whether the package flash-attn is installed"""
    system: str = "linux"
    """as in sys.platform"""


@dataclass(frozen=True)
class Feature:
    """Something that has not been run everywhere."""

    name: str
    """first column of the table, and what the note begins with"""
    not_run: str
    """last column of the table, and what the note ends with"""
    used: Callable[[Any, Machine], bool]
    """whether a run with this recipe on this machine uses it"""


def value(recipe: Any, key: str) -> Any:
    """Return the value at a dotted key; None if this stage's recipe has no such key."""
    for name in key.split("."):
        if name not in {field.name for field in dataclasses.fields(recipe)}:
            return None
        recipe = getattr(recipe, name)
    return recipe


def uses_flash_attention(recipe: Any, machine: Machine) -> bool:
    """Return whether `model.attention` means flash-attn; a reward model that shares prompts never uses it."""
    attention = value(recipe, "model.attention")
    automatic = machine.gpu and machine.flash_attention and not value(recipe, "reward.share_prompts")
    return attention == "flash_attention_2" or (attention == "auto" and automatic)


FEATURES = (
    Feature("a GPU", "on any GPU", lambda recipe, machine: machine.gpu and machine.ranks == 1),
    Feature(
        "HARDWARE=ddp",
        "on GPUs, only with CPU ranks",
        lambda recipe, machine: machine.gpu and machine.ranks > 1 and machine.sharding == "none",
    ),
    Feature(
        "HARDWARE=fsdp2",
        "on GPUs, only with CPU ranks",
        lambda recipe, machine: machine.gpu and machine.sharding == "fsdp2" and machine.hosts == 1,
    ),
    Feature(
        "HARDWARE=zero2 or zero3",
        "on GPUs, only with CPU ranks",
        lambda recipe, machine: machine.gpu and machine.sharding.startswith("zero"),
    ),
    Feature(
        "HARDWARE=multi_node",
        "on GPUs or over a real network, and never sharded",
        lambda recipe, machine: machine.hosts > 1,
    ),
    Feature("flash-attn", "at all", uses_flash_attention),
    Feature(
        "a base in 4 bits",
        "on a GPU, only on a CPU, and never sharded",
        lambda recipe, machine: bool(value(recipe, "lora.load_in_4bit") or value(recipe, "ppo.load_in_4bit")),
    ),
    Feature(
        "sampling.engine=compiled",
        "on a GPU, only on a CPU",
        lambda recipe, machine: value(recipe, "sampling.engine") == "compiled",
    ),
    Feature("sampling.engine=vllm", "at all", lambda recipe, machine: value(recipe, "sampling.engine") == "vllm"),
    Feature(
        "sampling.split",
        "on GPUs, only with CPU ranks",
        lambda recipe, machine: (value(recipe, "sampling.split") or 1) > 1,
    ),
    Feature("macOS", "at all; its GPU (MPS) is not used", lambda recipe, machine: machine.system == "darwin"),
)


def notes(recipe: Any, machine: Machine) -> Iterator[str]:
    """Yield a line for each experimental feature that a run with this recipe on this machine uses."""
    for feature in FEATURES:
        if feature.used(recipe, machine):
            yield f"note: {feature.name} is experimental: not run {feature.not_run}; see {PAGE}"
