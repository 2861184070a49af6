"""The updates of one step: epochs of minibatches, each a step of the value model and, after the warm-up, of the policy.

Every mean is over the global token count of its minibatch, so micro-batches and processes do not change it.
"""

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator

from engine.dist.collectives import take_share
from engine.dist.shard_model import accumulating, backward, optimizer_step
from engine.errors import RunError
from engine.forward.responses import PackedResponses, micro_batches, pack_responses, pack_text
from ppo.losses import clipped_policy_loss, clipped_value_loss
from ppo.models import Models
from ppo.pretrain import PretrainStream
from ppo.recipe import PPO, Algorithm
from ppo.rollout import Judged, Rollout
from ppo.schedule import learning_rate_factor


class Sums:
    """Sums over tokens on the device, divided and reduced once a step: no synchronisation inside the loops."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
        self._counts: dict[str, float] = defaultdict(float)

    def add(self, name: str, values: torch.Tensor) -> None:
        self._sums[name] = self._sums[name].to(values.device) + values.detach().double().sum()
        self._counts[name] += values.numel()

    def total(self, name: str) -> torch.Tensor:
        """What this process has summed up so far."""
        return self._sums[name]

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Global means by name."""
        means = {}
        for name, total in self._sums.items():
            both = torch.stack([total.float(), torch.tensor(self._counts[name], device=total.device)])
            value, count = accelerator.reduce(both, "sum").tolist()
            means[name] = value / max(count, 1.0)
        return means


def minibatches(recipe: PPO, rows: int, step: int) -> Iterator[list[int]]:
    """Row indices of every minibatch of every epoch; an epoch visits each row once, in an order of its own."""
    for epoch in range(recipe.ppo.epochs):
        order = list(range(rows))
        random.Random(f"{recipe.run.seed}/{step}/{epoch}").shuffle(order)
        size = rows // recipe.ppo.minibatches
        for at in range(0, rows, size):
            yield order[at : at + size]


def update(
    models: Models,
    recipe: PPO,
    rollout: Rollout,
    judged: Judged,
    pretrain: PretrainStream | None,
    step: int,
    accelerator: Accelerator,
) -> dict[str, float]:
    """All updates of one step; returns the means of what was seen on the way."""
    ppo, sums, updates = recipe.ppo, Sums(), 0
    learn_policy = step > ppo.value_warmup_steps
    set_learning_rate(models.policy_optimizer, ppo.policy_learning_rate, ppo, step, ppo.value_warmup_steps)
    set_learning_rate(models.value_optimizer, ppo.value_learning_rate, ppo, step, 0)
    for number, rows in enumerate(minibatches(recipe, len(rollout.responses), step)):
        tokens = int(judged.mask[rows].sum())
        batches = list(packed_rows(rollout, judged, rows, tokens, recipe, accelerator))
        if learn_policy:
            texts = pretrain.take(tokens, ppo.micro_batch_tokens) if pretrain else []
            learn_policy = update_policy(models, recipe, batches, texts, tokens, sums, number == 0, accelerator)
            updates += learn_policy
        if models.value is not None:
            update_value(models, recipe, batches, tokens, sums, accelerator)
    return sums.means(accelerator) | {"policy_updates": updates}


def set_learning_rate(
    optimizer: torch.optim.Optimizer | None, base: float, ppo: Algorithm, step: int, rests: int
) -> None:
    """The learning rate of `step`, where the first `rests` steps are none of this model's."""
    if optimizer is not None and step > rests:
        factor = learning_rate_factor(ppo.lr_scheduler_type, step - rests, ppo.steps - rests, ppo.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = base * factor


def packed_rows(
    rollout: Rollout, judged: Judged, rows: list[int], total: int, recipe: PPO, accelerator: Accelerator
) -> Iterator[tuple[PackedResponses, dict[str, torch.Tensor]]]:
    """This process's micro-batches of a minibatch of `total` tokens: the packed sequences, and their tokens' facts.

    These are what was judged and each token's `weight` in the losses' means, every entry (tokens,).
    """
    weights = torch.ones_like(judged.old_values)
    if recipe.ppo.loss_mean == "sequence":
        weights = token_weights(judged.mask, total, len(rows))
    rows = take_share(rows)
    prompts, tokens = [rollout.rows[r].input_ids for r in rows], [rollout.responses[r].tokens for r in rows]
    supports = rollout.supports and [rollout.responses[r].supports for r in rows]
    lengths = [len(p) + len(y) for p, y in zip(prompts, tokens, strict=True)]
    for run in micro_batches(lengths, recipe.ppo.micro_batch_tokens):
        mask = judged.mask[rows[run]]
        flat = {
            name: getattr(judged, name)[rows[run]][mask]
            for name in ("old_logprobs", "old_values", "advantages", "returns", "importance")
        }
        flat["weight"] = weights[rows[run]][mask]
        yield pack_responses(prompts[run], tokens[run], accelerator.device, supports and supports[run]), flat


def token_weights(mask: torch.Tensor, tokens: int, responses: int) -> torch.Tensor:
    """(batch, time) what makes a mean over `tokens` tokens one over `responses` responses: tokens / (responses · T)."""
    return (tokens / (responses * mask.sum(1, keepdim=True))).expand(mask.shape)


def update_policy(
    models: Models,
    recipe: PPO,
    batches: list[tuple[PackedResponses, dict[str, torch.Tensor]]],
    texts: list[tuple[list[list[int]], int]],
    tokens: int,
    sums: Sums,
    first: bool,
    accelerator: Accelerator,
) -> bool:
    """One step on L_π + c_ptx L_ptx; `texts` are micro-batches of sequences with the global count of their tokens.

    Returns whether the step was made: not where the minibatch is further from π_old than the recipe allows.
    """
    ppo, drift = recipe.ppo, sums.total("approx_kl")
    losses = [(policy_terms, batch, tokens) for batch in batches]
    losses += [(pretrain_terms, text, count) for text, count in texts]
    for at, (terms, batch, count) in enumerate(losses):
        with accumulating(models.policy, at == len(losses) - 1, accelerator):
            loss = terms(models, recipe, batch, sums, first)
            # DDP averages gradients over processes; the denominators are global already.
            backward(loss / count * accelerator.num_processes, models.policy, accelerator)
    if ppo.target_approx_kl is not None:
        drift = accelerator.reduce(sums.total("approx_kl") - drift, "sum")
        if float(drift) / tokens > ppo.target_approx_kl:
            models.policy_optimizer.zero_grad()
            return False
    step_optimizer(models.policy, models.policy_optimizer, ppo.max_grad_norm, "policy", sums, accelerator)
    return True


def policy_terms(models: Models, recipe: PPO, batch: Any, sums: Sums, first: bool) -> torch.Tensor:
    """Summed L_π of a micro-batch, less the entropy's bonus."""
    row, old = batch
    with_entropy = recipe.ppo.entropy_coef > 0
    out = models.policy(**row.logprob_arguments, temperature=recipe.sampling.temperature, with_entropy=with_entropy)
    loss = (
        old["weight"]
        * old["importance"]
        * clipped_policy_loss(out.logprobs, old["old_logprobs"], old["advantages"], recipe.ppo.clip)
    )
    log_ratio = (out.logprobs - old["old_logprobs"]).detach()
    ratio = log_ratio.exp()
    sums.add("policy_loss", loss)
    sums.add("ratio", ratio)
    sums.add("approx_kl", ratio - 1 - log_ratio)
    sums.add("policy_clip_fraction", ((ratio - 1).abs() > recipe.ppo.clip).float())
    if first:
        sums.add("first_ratio_error", (ratio - 1).abs())
    if with_entropy:
        loss = loss - recipe.ppo.entropy_coef * old["weight"] * out.entropy
    return loss.sum()


def pretrain_terms(models: Models, recipe: PPO, sequences: Any, sums: Sums, first: bool) -> torch.Tensor:
    """Summed c_ptx L_ptx of a micro-batch of pretraining text (report: "pretrained gradient", 3.2.2)."""
    nll = -models.policy(**pack_text(sequences, models.device).logprob_arguments, with_entropy=False).logprobs
    sums.add("pretrain_loss", nll)
    return recipe.ppo.pretrain_coef * nll.sum()


def update_value(
    models: Models,
    recipe: PPO,
    batches: list[tuple[PackedResponses, dict[str, torch.Tensor]]],
    tokens: int,
    sums: Sums,
    accelerator: Accelerator,
) -> None:
    """One step on L_V."""
    clip = recipe.ppo.value_clip
    for at, (row, old) in enumerate(batches):
        with accumulating(models.value, at == len(batches) - 1, accelerator):
            values = models.value(**row.inputs, score_positions=row.positions).logits[:, 0]
            loss = old["weight"] * clipped_value_loss(values, old["old_values"], old["returns"], clip)
            backward(loss.sum() / tokens * accelerator.num_processes, models.value, accelerator)
        sums.add("value_loss", loss)
        sums.add("value_clip_fraction", ((values - old["old_values"]).abs() > clip).float())
    step_optimizer(models.value, models.value_optimizer, recipe.ppo.max_grad_norm, "value", sums, accelerator)


def step_optimizer(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float,
    name: str,
    sums: Sums,
    accelerator: Accelerator,
) -> None:
    """Clip and step; a gradient that is not finite ends the run."""
    norm = optimizer_step(model, optimizer, max_grad_norm, accelerator)
    if not math.isfinite(norm):
        raise RunError(
            f"the {name}'s gradient norm is {norm}; lower ppo.{name}_learning_rate or look at the last "
            "samples (the last checkpoint is intact)"
        )
    sums.add(f"{name}_grad_norm", torch.tensor(norm))
