"""What processes hold of a model: all of it, or a share (FSDP2, DeepSpeed's ZeRO), and what follows for its files."""

import os
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict


class Sharding(NamedTuple):
    kind: str
    """none, fsdp2, zero2 or zero3"""

    @property
    def is_deepspeed(self) -> bool:
        return self.kind.startswith("zero")


def sharding_requested() -> bool:
    """Whether the launcher asks for weights in pieces; known before there is an accelerator."""
    three = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    return os.environ.get("ACCELERATE_USE_FSDP") == "true" or three


def sharding_of(accelerator: Accelerator) -> Sharding:
    """What this run has."""
    kind = "none"
    if accelerator.distributed_type == DistributedType.FSDP:
        kind = "fsdp2"
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        kind = f"zero{accelerator.state.deepspeed_plugin.zero_stage}"
    return Sharding(kind)


def full_weights(model: torch.nn.Module, accelerator: Accelerator) -> dict[str, torch.Tensor] | None:
    """A prepared model's trained weights on process 0, where no process holds all of them; asked by all processes."""
    match sharding_of(accelerator).kind:
        case "fsdp2":
            whole = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
            weights = get_model_state_dict(model, options=whole)
        case "zero3":  # has nothing for the other processes
            weights = model._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True) or {}
        case _:
            return None
    tied = accelerator.unwrap_model(model).all_tied_weights_keys  # stored once, under the other name
    return {name: weight for name, weight in weights.items() if name not in tied}
