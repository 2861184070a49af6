"""What processes hold of a model: all of it, or a share (FSDP2, DeepSpeed's ZeRO), and what follows for its files."""

import json
import os
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from engine.run.folder import RunError

NOTE = "processes.json"
# How the person asks for each.
HARDWARE = {"none": "ddp, one_gpu, cpu_2 or no HARDWARE", "fsdp2": "fsdp2", "zero2": "zero2", "zero3": "zero3"}


class Sharding(NamedTuple):
    kind: str
    """none, fsdp2, zero2 or zero3"""
    processes: int

    @property
    def is_deepspeed(self) -> bool:
        return self.kind.startswith("zero")


def asked_for() -> bool:
    """Whether the launcher asks for weights in pieces; known before there is an accelerator."""
    three = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    return os.environ.get("ACCELERATE_USE_FSDP") == "true" or three


def of(accelerator: Accelerator) -> Sharding:
    """What this run has."""
    kind = "none"
    if accelerator.distributed_type == DistributedType.FSDP:
        kind = "fsdp2"
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        kind = f"zero{accelerator.state.deepspeed_plugin.zero_stage}"
    return Sharding(kind, accelerator.num_processes)


def note(checkpoint: Path, sharding: Sharding) -> None:
    """Keep beside a checkpoint who wrote it."""
    (checkpoint / NOTE).write_text(json.dumps(sharding._asdict()) + "\n", encoding="utf-8")


def check(checkpoint: Path, now: Sharding) -> None:
    """Raises RunError where `now` cannot read what a Trainer has written there: another kind, but zero2 and zero3."""
    before = Sharding(**json.loads((checkpoint / NOTE).read_text(encoding="utf-8")))
    if before.kind == now.kind or (before.is_deepspeed and now.is_deepspeed):
        return
    raise RunError(
        f"{checkpoint} was written with {described(before)} and cannot be continued with {described(now)}; "
        f"use HARDWARE={HARDWARE[before.kind]}, or name another run.dir"
    )


def described(sharding: Sharding) -> str:
    processes = "one process" if sharding.processes == 1 else f"{sharding.processes} processes"
    return f"{processes} under {sharding.kind}" if sharding.kind != "none" else f"{processes}, unsharded"


def whole_weights(model: torch.nn.Module, accelerator: Accelerator) -> dict[str, torch.Tensor] | None:
    """A prepared model's trained weights on process 0, where no process holds all of them; asked by all processes."""
    match of(accelerator).kind:
        case "fsdp2":
            whole = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
            weights = get_model_state_dict(model, options=whole)
        case "zero3":  # has nothing for the other processes
            weights = model._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True) or {}
        case _:
            return None
    tied = accelerator.unwrap_model(model).all_tied_weights_keys  # stored once, under the other name
    return {name: weight for name, weight in weights.items() if name not in tied}
