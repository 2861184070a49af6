"""What processes hold of a model: all of it, or a share (FSDP2, DeepSpeed's ZeRO), and what follows for its files."""

import os
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from peft import PeftModel
from transformers import Trainer

from engine.run.folder import RunError


class Sharding(NamedTuple):
    kind: str
    """none, fsdp2, zero2 or zero3"""

    @property
    def is_deepspeed(self) -> bool:
        return self.kind.startswith("zero")


def asked_for() -> bool:
    """Whether the launcher asks for FSDP2; known before there is an accelerator."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def of(accelerator: Accelerator) -> Sharding:
    """What this run has."""
    kind = "none"
    if accelerator.distributed_type == DistributedType.FSDP:
        kind = "fsdp2"
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        kind = f"zero{accelerator.state.deepspeed_plugin.zero_stage}"
    return Sharding(kind)


def whole_weights(model: torch.nn.Module, accelerator: Accelerator) -> dict[str, torch.Tensor] | None:
    """A prepared model's weights on process 0, where no process holds all of them; asked by all processes."""
    if of(accelerator).kind in ("none", "zero2"):
        return None
    weights = accelerator.get_state_dict(model) or {}  # ZeRO-3 has nothing for the other processes
    tied = accelerator.unwrap_model(model).all_tied_weights_keys  # stored once, under the other name
    return {name: weight for name, weight in weights.items() if name not in tied}


def refuse_tied_adapters(trainer: Trainer) -> None:
    """Raises RunError for adapters under FSDP2 on a causal model whose tables are one: peft wraps it twice."""
    model = trainer.model
    if of(trainer.accelerator).kind != "fsdp2" or not isinstance(model, PeftModel):
        return
    if model.can_generate() and model.config.tie_word_embeddings:
        raise RunError("this model's embeddings are tied: FSDP2 takes no adapters on it; use HARDWARE=ddp or zero2")
