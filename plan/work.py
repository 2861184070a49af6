"""Count the operations of a run and estimate its time: FLOPs of all matrix products / (speed x utilisation).

A token costs 2 operations per weight that it is multiplied with: one multiplication and one addition.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.dist.devices import synchronise
from plan.hardware import Hardware
from plan.memory import BYTES_IN_4BIT, Pass, Trained
from plan.shape import Shape

# Default of transformers.
DEFAULT_EPOCHS = 3.0


@dataclass(frozen=True)
class Work:
    tokens: int
    """tokens per step, on all processes"""
    steps: int | None
    """None if the number of rows is unknown"""
    flops: float
    """operations per step, on all processes"""
    again: float
    """operations among `flops` that recompute activations and logits, to save memory"""
    waiting: float
    """seconds per step in which a device waits for its memory (decoding)"""

    def seconds(self, hardware: Hardware, utilisation: float) -> float:
        """Return the seconds of a step; `utilisation` is the share of the device's speed that training reaches."""
        speed = hardware.flops or measured_flops()
        return self.flops / (speed * utilisation * hardware.processes) + self.waiting


def forward_flops(shape: Shape, tokens: float, sequence: float, predicted: float) -> float:
    """Return the operations of a forward pass.

    2 per token and weight of the layers. Attention: 2 q per token attended to, for scores and again for values; on
    average a token attends to half the `sequence`. Output head: 2 V d per predicted position.
    """
    return tokens * (2 * shape.products + shape.layers * 2 * shape.queries * sequence) + predicted * 2 * shape.table


def training_flops(model: Trained, tokens: float, sequence: float, predicted: float, checkpointing: bool) -> float:
    """Return the operations of forward and backward passes: 1 and 2 times those of the forward pass, and recomputation.

    Layers with frozen weights (LoRA) need 1 instead of 2 in the backward pass.
    """
    layers = forward_flops(model.shape, tokens, sequence, 0) * (2 if model.adapters else 3)
    head = forward_flops(model.shape, 0, 0, predicted) * 3
    return layers + head + recomputed_flops(model, tokens, sequence, predicted, checkpointing)


def recomputed_flops(model: Trained, tokens: float, sequence: float, predicted: float, checkpointing: bool) -> float:
    """Return the recomputed operations: the logits, and with checkpointing the layers' forward pass."""
    return checkpointing * forward_flops(model.shape, tokens, sequence, 0) + forward_flops(model.shape, 0, 0, predicted)


def trainer_work(
    model: Trained, step: Pass, batch: int, tokens: int, trainer: Mapping[str, Any], data_rows: int | None
) -> Work:
    """Return the work of stage sft or reward; a step takes `batch` rows with `tokens` tokens in all."""
    predicted = tokens * step.predicted / step.tokens
    learning = (model, tokens, step.sequence, predicted, step.checkpointing)
    steps = trainer.get("max_steps", -1)
    if steps <= 0:
        epochs = trainer.get("num_train_epochs", DEFAULT_EPOCHS)
        steps = data_rows and math.ceil(epochs * math.ceil(data_rows / batch))
    return Work(tokens, steps, training_flops(*learning), recomputed_flops(*learning), 0.0)


def ppo_work(
    recipe: Any, policy: Trained, lengths: tuple[int, int], has_value: bool, judges: int, hardware: Hardware
) -> Work:
    """Return the work of a PPO step that trains policy and value: responses are generated, scored and trained on.

    `lengths` are the tokens of a prompt and of a response, `judges` is the number of reward models.
    """
    ppo, shape = recipe.ppo, policy.shape
    answers = ppo.queries_per_step * ppo.responses_per_query
    tokens, written = answers * sum(lengths), answers * lengths[1]
    body = forward_flops(shape, tokens, sum(lengths), 0)
    head = forward_flops(shape, 0, 0, written)
    sampling = forward_flops(shape, ppo.queries_per_step * lengths[0] + written, sum(lengths), written)
    judging = (2 + judges + has_value) * body + 2 * head
    text = ppo.pretrain_ratio * written if ppo.pretrain_coef > 0 else 0
    learning = [
        (policy, tokens, sum(lengths), written, ppo.gradient_checkpointing),
        (policy, text, recipe.data.pretrain_length, text, ppo.gradient_checkpointing),
        (policy, has_value * tokens, sum(lengths), 0, ppo.gradient_checkpointing),
    ]
    waiting = 0.0
    if hardware.bandwidth:
        split = recipe.sampling.split
        batches = math.ceil(answers * split / hardware.processes / recipe.sampling.batch_size)
        read = policy.element_bytes * policy.base / split
        if policy.in_4bit:  # Each layer is dequantised first.
            read += (BYTES_IN_4BIT + policy.element_bytes) * shape.products
        waiting = batches * lengths[1] * read / hardware.bandwidth
    flops, again = (
        ppo.epochs * sum(count(*model) for model in learning) for count in (training_flops, recomputed_flops)
    )
    return Work(round(tokens + text), ppo.steps, sampling + judging + flops, again, waiting)


def measured_flops(size: int = 1024, dtype: torch.dtype = torch.float32, device: str = "cpu", times: int = 5) -> float:
    """Measure the operations per second of a large matrix product on this machine: the best of `times` runs."""
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
    took = []
    for _ in range(times):
        synchronise()
        began = time.perf_counter()
        one @ other
        synchronise()
        took.append(time.perf_counter() - began)
    return 2 * size**3 / min(took)
