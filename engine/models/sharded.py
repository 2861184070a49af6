"""Models whose weights lie in pieces over the processes (FSDP2): gathered for a rollout.

A forward pass of a sharded model is one of all processes together. Processes whose answers differ in length could not
decode so; they have all weights at hand while a rollout is written, gathered once, and nothing is exchanged meanwhile.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel


@contextmanager
def gathered(model: torch.nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """All weights in every process for a while."""
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not shards:
        yield
        return
    model.set_reshard_after_forward(False)
    for shard in shards:
        shard.unshard()
    try:
        yield
    finally:
        model.set_reshard_after_forward(accelerator.state.fsdp_plugin.reshard_after_forward)
        model.set_reshard_after_forward(False, recurse=False)  # the root's are needed first in the backward pass
        for shard in shards:
            shard.reshard()


def shard_frozen(model: PreTrainedModel, accelerator: Accelerator) -> PreTrainedModel:
    """A model that is not trained, in pieces like those that are, where these are."""
    return fsdp2_prepare_model(accelerator, model) if accelerator.is_fsdp2 else model
