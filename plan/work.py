"""What a run computes, and how long that takes: operations of all matrix products over a device's speed times the share
of it that training reaches. A product of m numbers with n costs 2 m n operations.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from engine.dist.devices import synchronise
from plan.hardware import Hardware
from plan.memory import IN_4BIT, Pass, Trained
from plan.shape import Shape

# What transformers takes where a recipe says nothing.
DEFAULT_EPOCHS = 3.0


@dataclass(frozen=True)
class Work:
    tokens: int
    """that a step trains on, of all processes"""
    steps: int | None
    """None where nothing says how many rows there are"""
    flops: float
    """operations of a step, of all processes"""
    again: float
    """those of them that compute a second time what was not kept, to save memory"""
    waiting: float
    """seconds of a step in which a device reads its memory rather than computes: decoding"""

    def seconds(self, hardware: Hardware, utilisation: float) -> float:
        """Of a step."""
        speed = hardware.flops or measured_flops()
        return self.flops / (speed * utilisation * hardware.processes) + self.waiting


def forward_flops(shape: Shape, tokens: float, sequence: float, predicted: float) -> float:
    """2 a weight and token; of attention 2 q a token it sees, half the sequence on average, for scores and again for
    values; 2 V d where a log-probability is made."""
    return tokens * (2 * shape.products + shape.layers * 2 * shape.queries * sequence) + predicted * 2 * shape.table


def training_flops(model: Trained, tokens: float, sequence: float, predicted: float, checkpointing: bool) -> float:
    """Forward 1, backward 2 (of layers 1 where weights are frozen), and what is computed again."""
    layers = forward_flops(model.shape, tokens, sequence, 0) * (2 if model.adapters else 3)
    head = forward_flops(model.shape, 0, 0, predicted) * 3
    return layers + head + flops_again(model, tokens, sequence, predicted, checkpointing)


def flops_again(model: Trained, tokens: float, sequence: float, predicted: float, checkpointing: bool) -> float:
    """The layers' forward pass with checkpointing, and logits."""
    return checkpointing * forward_flops(model.shape, tokens, sequence, 0) + forward_flops(model.shape, 0, 0, predicted)


def trainer_work(
    model: Trained, step: Pass, batch: int, tokens: int, trainer: Mapping[str, Any], data_rows: int | None
) -> Work:
    """Of a trainer that takes `batch` rows, `tokens` tokens, a step."""
    predicted = tokens * step.predicted / step.tokens
    learning = (model, tokens, step.sequence, predicted, step.checkpointing)
    steps = trainer.get("max_steps", -1)
    if steps <= 0:
        epochs = trainer.get("num_train_epochs", DEFAULT_EPOCHS)
        steps = data_rows and math.ceil(epochs * math.ceil(data_rows / batch))
    return Work(tokens, steps, training_flops(*learning), flops_again(*learning), 0.0)


def ppo_work(
    recipe: Any, policy: Trained, lengths: tuple[int, int], has_value: bool, judges: int, hardware: Hardware
) -> Work:
    """Of a step of PPO after the value model's own: answers written, judged by four models, and learnt from."""
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
        read = policy.number * policy.base / split
        if policy.in_4bit:  # and decoded before, a layer at a time
            read += (IN_4BIT + policy.number) * shape.products
        waiting = batches * lengths[1] * read / hardware.bandwidth
    flops, again = (ppo.epochs * sum(count(*model) for model in learning) for count in (training_flops, flops_again))
    return Work(round(tokens + text), ppo.steps, sampling + judging + flops, again, waiting)


def measured_flops(size: int = 1024, dtype: torch.dtype = torch.float32, device: str = "cpu", times: int = 5) -> float:
    """Operations a second of a large product on this machine, the best of some `times`."""
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
    took = []
    for _ in range(times):
        synchronise()
        began = time.perf_counter()
        one @ other
        synchronise()
        took.append(time.perf_counter() - began)
    return 2 * size**3 / min(took)
