"""The sharding of a run (none, FSDP2, DeepSpeed's ZeRO), and full weights gathered from the shards."""

import os
from typing import NamedTuple, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from engine.compat import consolidated_weights


class Sharding(NamedTuple):
    """The kind of sharding that a run has."""

    kind: str
    """none, fsdp2, zero2 or zero3"""

    @property
    def is_deepspeed(self) -> bool:
        return self.kind.startswith("zero")


def requested_kind() -> str:
    """Return the kind of sharding that the launcher requests, as in `Sharding`; works before the accelerator exists."""
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return "fsdp2"
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE")
    return f"zero{stage}" if stage else "none"


def sharding_requested() -> bool:
    """Return whether the launcher requests sharded weights (FSDP2, ZeRO-3); works before the accelerator exists."""
    return requested_kind() in ("fsdp2", "zero3")


def sharding_of(accelerator: Accelerator) -> Sharding:
    """Return the sharding that the accelerator was started with."""
    kind = "none"
    if accelerator.distributed_type == DistributedType.FSDP:
        kind = "fsdp2"
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        kind = f"zero{accelerator.state.deepspeed_plugin.zero_stage}"
    return Sharding(kind)


def full_weights(model: torch.nn.Module, accelerator: Accelerator) -> dict[str, torch.Tensor] | None:
    """Return a prepared model's full trained weights on rank 0, {} on other ranks (collective).

    The dict maps parameter names to CPU tensors. Returns None if weights are not sharded and every rank has all of them.
    """
    match sharding_of(accelerator).kind:
        case "fsdp2":
            full = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
            weights = cast(dict[str, torch.Tensor], get_model_state_dict(model, options=full))
        case "zero3":
            weights = consolidated_weights(model)
        case _:
            return None
    tied = accelerator.unwrap_model(model).all_tied_weights_keys  # stored once, under the other name
    return {name: weight for name, weight in weights.items() if name not in tied}
