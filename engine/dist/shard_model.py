"""Shard models over the ranks (FSDP2, DeepSpeed's ZeRO-3), and take optimiser steps.

A forward pass of a sharded model is collective, but ranks whose responses differ in length need different numbers of
decoding steps. A rollout therefore gathers all weights once (`gathered_weights`) and decodes without communication.
DeepSpeed clips, steps and clears gradients itself, so all training must use `accumulate_gradients`, `backward` and
`optimizer_step`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from engine.compat import partition_weights
from engine.dist.sharding import sharding_of


class DeepSpeedEngine(Protocol):
    """What is called of the module that accelerate's `prepare` returns under DeepSpeed."""

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None: ...

    def backward(self, loss: torch.Tensor) -> Any: ...

    def step(self) -> None: ...

    def get_global_grad_norm(self) -> float: ...


def prepare_trained(
    model: torch.nn.Module,
    optimizer_of: Callable[[torch.nn.Module], torch.optim.Optimizer],
    max_grad_norm: float,
    accelerator: Accelerator,
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Wrap or shard one model and create its optimiser (collective).

    Args:
        model: loaded in full on every rank.
        optimizer_of: called with the sharded model; returns its optimiser.
        max_grad_norm: gradient clipping norm, which DeepSpeed must know in advance.

    Returns:
        the prepared model and optimiser.
    """
    shard_model(model, accelerator)
    optimizer = optimizer_of(model)
    if sharding_of(accelerator).is_deepspeed:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        # Losses are already divided by the batch size, and `accumulate_gradients` marks the last part of a batch.
        settings |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
        settings["gradient_clipping"] = max_grad_norm
    return accelerator.prepare(model, optimizer)


def shard_model(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Keep only this rank's shard under FSDP2 and ZeRO-3, and convert trained weights to float32 (collective).

    Sharding comes first because accelerate would otherwise create the full float32 model on every rank. Under FSDP2,
    frozen weights (below adapters) are stored in the dtype of computations, to which FSDP2 would convert them in every
    pass. Under ZeRO-3 all weights are stored in that dtype, and DeepSpeed keeps float32 copies of the trained ones.
    """
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    if sharding_of(accelerator).kind == "zero3":
        return partition_zero3(model, accelerator)
    if accelerator.is_fsdp2:
        model.requires_grad_(False)
        # Adapters that train rows of tied embeddings would hide from accelerate that the embeddings are tied.
        with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
            fsdp2_prepare_model(accelerator, model)
    for name, weight in model.named_parameters():
        if isinstance(weight, DTensor):
            part = weight.detach().to(torch.float32 if name in trained else autocast_dtype(accelerator))
            torch.utils.swap_tensors(weight, torch.nn.Parameter(part, requires_grad=name in trained))
        elif name in trained:
            weight.data = weight.data.float()


def partition_zero3(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Shard a model for ZeRO-3, one weight at a time (collective).

    DeepSpeed itself would first move the full model to every device.
    """
    import deepspeed

    context = deepspeed.zero.Init(module=torch.nn.Identity())
    for weight in model.parameters():
        # A copy, because memory-mapped files are read-only.
        weight.data = weight.data.to(autocast_dtype(accelerator), copy=True)
        partition_weights(context, [weight])


def autocast_dtype(accelerator: Accelerator) -> torch.dtype:
    """Return the dtype of matrix products."""
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32


def prepare_frozen(model: torch.nn.Module, accelerator: Accelerator) -> torch.nn.Module:
    """Shard a frozen model if trained models are sharded, and return it (collective)."""
    if accelerator.is_fsdp2:
        return fsdp2_prepare_model(accelerator, model)
    if sharding_of(accelerator).kind == "zero3":
        from trl.models.utils import prepare_deepspeed

        partition_zero3(model, accelerator)
        return prepare_deepspeed(model, accelerator)
    return model


@contextmanager
def gathered_weights(model: torch.nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Gather the full weights of a prepared model on every rank for the duration of the block (collective)."""
    if sharding_of(accelerator).kind == "zero3":
        from trl.models.utils import unwrap_model_for_generation

        with unwrap_model_for_generation(model, accelerator, gradient_checkpointing_kwargs={"use_reentrant": False}):
            yield
        return
    shards = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not shards:
        yield
        return
    sharded, head = cast(FSDPModule, model), cast(PreTrainedModel, model).get_output_embeddings()
    sharded.set_reshard_after_forward(False)
    for shard in shards:
        shard.unshard()
    try:
        yield
    finally:
        sharded.set_reshard_after_forward(accelerator.state.fsdp_plugin.reshard_after_forward)
        for first_in_backward in (model, head):  # as accelerate sets it
            if isinstance(first_in_backward, FSDPModule):
                first_in_backward.set_reshard_after_forward(False, recurse=False)
        for shard in shards:
            shard.reshard()


def accumulate_gradients(model: torch.nn.Module, last: bool, accelerator: Accelerator) -> Any:
    """Return a context for the forward and backward pass of one part of a batch.

    Gradients are averaged over ranks only in the `last` part.
    """
    if sharding_of(accelerator).is_deepspeed:
        cast(DeepSpeedEngine, model).set_gradient_accumulation_boundary(last)
        return nullcontext()
    return nullcontext() if last else accelerator.no_sync(model)


def backward(loss: torch.Tensor, model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Add the gradients of a loss to the model's, which are means over ranks (collective in the last part of a batch)."""
    if sharding_of(accelerator).is_deepspeed:  # accelerate's own backward supports one engine only
        cast(DeepSpeedEngine, model).backward(loss)
    else:
        accelerator.backward(loss)


def optimizer_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float, accelerator: Accelerator
) -> float:
    """Clip the gradient to a norm of `max_grad_norm`, update the weights, clear the gradient (collective).

    Returns the norm before clipping. If it is not finite, the weights are not updated, except under DeepSpeed, which
    reports the norm only after the update.
    """
    if sharding_of(accelerator).is_deepspeed:
        engine = cast(DeepSpeedEngine, model)
        engine.step()
        return float(engine.get_global_grad_norm())
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm
