"""Models whose weights lie in pieces over the processes (FSDP2, DeepSpeed's ZeRO-3), and steps of their optimisers.

A forward pass of such a model is one of all processes together. Processes whose answers differ in length could not
decode so; they have all weights at hand while a rollout is written, gathered once, and nothing is exchanged meanwhile.
DeepSpeed clips, steps and clears by itself, so all training here goes through `accumulating`, `backward` and `step`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import fsdp2_prepare_model
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from engine.dist.sharding import sharding_of


def prepare_trained(
    model: torch.nn.Module,
    optimizer_of: Callable[[torch.nn.Module], torch.optim.Optimizer],
    max_grad_norm: float,
    accelerator: Accelerator,
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model with its optimiser, wrapped or sharded; one at a time, FSDP2 wants it."""
    shard_model(model, accelerator)
    optimizer = optimizer_of(model)
    if sharding_of(accelerator).is_deepspeed:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        # Batches and their parts are ours: a loss comes divided, and `accumulating` says which part is the last.
        settings |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
        settings["gradient_clipping"] = max_grad_norm
    return accelerator.prepare(model, optimizer)


def shard_model(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Under FSDP2 and ZeRO-3, keep this process's part of a model; then what is trained is float32.

    accelerate would make float32 of it first, whole, in the memory of every process of a machine. What adapters stand
    on is then in the type of the computation, which FSDP2 would make of it for every pass; under ZeRO all is, and
    DeepSpeed holds float32 beside what is trained.
    """
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    if sharding_of(accelerator).kind == "zero3":
        return partition_zero3(model, accelerator)
    if accelerator.is_fsdp2:
        model.requires_grad_(False)
        # Where adapters train rows of a table that is both embeddings, accelerate would not see that it is one.
        with model.disable_adapter() if isinstance(model, PeftModel) else nullcontext():
            fsdp2_prepare_model(accelerator, model)
    for name, weight in model.named_parameters():
        if isinstance(weight, DTensor):
            part = weight.detach().to(torch.float32 if name in trained else autocast_dtype(accelerator))
            torch.utils.swap_tensors(weight, torch.nn.Parameter(part, requires_grad=name in trained))
        elif name in trained:
            weight.data = weight.data.float()


def partition_zero3(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """ZeRO-3's pieces, one weight after the other: DeepSpeed itself would move the whole model to each device first."""
    import deepspeed

    pieces = deepspeed.zero.Init(module=torch.nn.Identity())
    for weight in model.parameters():
        weight.data = weight.data.to(autocast_dtype(accelerator), copy=True)  # written to, unlike a file's pages
        pieces._convert_to_zero_parameters([weight])


def autocast_dtype(accelerator: Accelerator) -> torch.dtype:
    """The type of matrix products."""
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32


def prepare_frozen(model: PreTrainedModel, accelerator: Accelerator) -> torch.nn.Module:
    """A model that is not trained, in pieces where those that are lie in pieces."""
    if accelerator.is_fsdp2:
        return fsdp2_prepare_model(accelerator, model)
    if sharding_of(accelerator).kind == "zero3":
        from trl.models.utils import prepare_deepspeed

        partition_zero3(model, accelerator)
        return prepare_deepspeed(model, accelerator)
    return model


@contextmanager
def gathered_weights(model: torch.nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """All weights of a prepared model in every process for a while."""
    if sharding_of(accelerator).kind == "zero3":
        from trl.models.utils import unwrap_model_for_generation

        with unwrap_model_for_generation(model, accelerator, gradient_checkpointing_kwargs={"use_reentrant": False}):
            yield
        return
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
        for first_in_backward in (model, model.get_output_embeddings()):  # as accelerate has them
            if isinstance(first_in_backward, FSDPModule):
                first_in_backward.set_reshard_after_forward(False, recurse=False)
        for shard in shards:
            shard.reshard()


def accumulating(model: torch.nn.Module, last: bool, accelerator: Accelerator) -> Any:
    """Around the forward and backward pass of a part of a batch: processes exchange gradients at the `last` only."""
    if sharding_of(accelerator).is_deepspeed:
        model.set_gradient_accumulation_boundary(last)
        return nullcontext()
    return nullcontext() if last else accelerator.no_sync(model)


def backward(loss: torch.Tensor, model: torch.nn.Module, accelerator: Accelerator) -> None:
    """Add to the gradients, which are means over processes."""
    if sharding_of(accelerator).is_deepspeed:  # accelerate knows one engine only
        model.backward(loss)
    else:
        accelerator.backward(loss)


def optimizer_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float, accelerator: Accelerator
) -> float:
    """Shorten the gradient to `max_grad_norm`, update the weights, clear the gradient; returns what its norm was.

    A norm that is not finite leaves the weights as they are; under DeepSpeed, which tells it afterwards, it does not.
    """
    if sharding_of(accelerator).is_deepspeed:
        model.step()
        return float(model.get_global_grad_norm())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    if math.isfinite(norm):
        optimizer.step()
        optimizer.zero_grad()
    return norm
