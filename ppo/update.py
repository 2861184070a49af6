"""The updates of one step: for each minibatch of each epoch, one optimiser step of the policy and of the value model.

Losses are divided by the token count of the minibatch over all ranks, so their gradients do not depend on the number of
micro-batches or ranks. The policy is not updated during the value warm-up.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator

from engine.dist.collectives import take_share
from engine.dist.shard_model import accumulate_gradients, backward, optimizer_step
from engine.errors import RunError
from engine.forward.responses import micro_batches_on_all_ranks, pack_text
from ppo.assess import Assessment
from ppo.losses import clipped_policy_loss, clipped_value_loss
from ppo.minibatches import MicroBatch, Minibatch, minibatch_rows, pack_minibatch
from ppo.models import Models
from ppo.pretrain import PretrainStream
from ppo.recipe import Algorithm
from ppo.rollout import Rollout
from ppo.schedule import learning_rate_factor
from ppo.token_means import TokenMeans


@dataclass(frozen=True)
class Updater:
    """Trains policy and value model on rollouts; its only state between steps is in `models` and `pretrain`."""

    models: Models
    ppo: Algorithm
    temperature: float
    """sampling temperature, by which logits are divided before log-probabilities are taken"""
    seed: int
    pretrain: PretrainStream | None
    accelerator: Accelerator

    def update(self, rollout: Rollout, assessment: Assessment, step: int) -> dict[str, float]:
        """Run all updates of a step and return the means of their metrics (collective: every rank must call it).

        Raises RunError if a gradient is NaN or infinite.
        """
        ppo, models, means, policy_updates = self.ppo, self.models, TokenMeans(), 0
        policy_trains = step > ppo.value_warmup_steps
        self.set_learning_rate(models.policy_optimizer, ppo.policy_learning_rate, step, ppo.value_warmup_steps)
        self.set_learning_rate(models.value_optimizer, ppo.value_learning_rate, step, 0)
        for number, rows in enumerate(minibatch_rows(len(rollout.responses), ppo, self.seed, step)):
            minibatch = pack_minibatch(rollout, assessment, rows, ppo)
            if policy_trains:
                policy_trains = self.update_policy(minibatch, means, first=number == 0)
                policy_updates += policy_trains
            if models.value is not None:
                self.update_value(minibatch, means)
        return means.reduce(self.accelerator) | {"policy_updates": policy_updates}

    def set_learning_rate(self, optimizer: torch.optim.Optimizer | None, base: float, step: int, frozen: int) -> None:
        """Set the learning rate of `step`; the schedule starts after `frozen` steps that do not train the model."""
        if optimizer is not None and step > frozen:
            ppo = self.ppo
            factor = learning_rate_factor(ppo.lr_scheduler_type, step - frozen, ppo.steps - frozen, ppo.warmup_steps)
            for group in optimizer.param_groups:
                group["lr"] = base * factor

    def update_policy(self, minibatch: Minibatch, means: TokenMeans, *, first: bool) -> bool:
        """Take one optimiser step on L_π + c_ptx L_ptx; return whether it was taken.

        The step is skipped and its gradient discarded if the minibatch's mean approx_kl, in nats per token, is above
        `ppo.target_approx_kl`.
        """
        policy, ppo, accelerator = self.models.policy, self.ppo, self.accelerator
        drift = means.total("approx_kl")
        # Each part of the loss with the token count, over all ranks, by which it is divided.
        parts: list[tuple[Callable[[], torch.Tensor], int]] = [
            (partial(self.policy_loss, micro_batch, means, first), minibatch.tokens)
            for micro_batch in minibatch.micro_batches
        ]
        if self.pretrain is not None:
            texts, predicted = self.pretrain.take(minibatch.tokens)
            texts = take_share(texts)
            runs = micro_batches_on_all_ranks([len(text) for text in texts], ppo.micro_batch_tokens)
            parts += [(partial(self.pretrain_loss, texts[run], means), predicted) for run in runs]
        for at, (loss, count) in enumerate(parts):
            with accumulate_gradients(policy, at == len(parts) - 1, accelerator):
                # DDP averages gradients over ranks, but the counts are sums over ranks.
                backward(loss() / count * accelerator.num_processes, policy, accelerator)
        if ppo.target_approx_kl is not None:
            drift = accelerator.reduce(means.total("approx_kl") - drift, "sum")
            if float(drift) / minibatch.tokens > ppo.target_approx_kl:
                self.models.policy_optimizer.zero_grad()
                return False
        self.step_optimizer("policy", policy, self.models.policy_optimizer, means)
        return True

    def policy_loss(self, batch: MicroBatch, means: TokenMeans, first: bool) -> torch.Tensor:
        """Return L_π minus the entropy bonus, summed over the tokens of a micro-batch, a scalar.

        L_π is weighted per token by `weight` and `importance`. approx_kl is ρ - 1 - log ρ, the estimator k3 of
        KL(π_old ‖ π_θ) in nats (Schulman 2020). `first` marks the step's first minibatch, in which ρ should be 1.
        """
        ppo = self.ppo
        with_entropy = ppo.entropy_coef > 0
        out = self.models.policy(
            **batch.packed.logprob_arguments, temperature=self.temperature, with_entropy=with_entropy
        )
        loss = (
            batch.weight
            * batch.importance
            * clipped_policy_loss(out.logprobs, batch.old_logprobs, batch.advantages, ppo.clip)
        )
        log_ratio = (out.logprobs - batch.old_logprobs).detach()
        ratio = log_ratio.exp()
        means.add("policy_loss", loss)
        means.add("ratio", ratio)
        means.add("approx_kl", ratio - 1 - log_ratio)
        means.add("policy_clip_fraction", ((ratio - 1).abs() > ppo.clip).float())
        if first:
            means.add("first_ratio_error", (ratio - 1).abs())
        if with_entropy:
            loss = loss - ppo.entropy_coef * batch.weight * out.entropy
        return loss.sum()

    def pretrain_loss(self, texts: list[list[int]], means: TokenMeans) -> torch.Tensor:
        """Return c_ptx L_ptx summed over the predicted tokens of `texts`, a scalar.

        L_ptx is the negative log-likelihood in nats (Ouyang et al. 2022, eq. 2); its gradient is the "pretrained
        gradient" of the report (3.2.2).
        """
        packed = pack_text(texts, self.models.device)
        nll = -self.models.policy(**packed.logprob_arguments, with_entropy=False).logprobs
        means.add("pretrain_loss", nll)
        return self.ppo.pretrain_coef * nll.sum()

    def update_value(self, minibatch: Minibatch, means: TokenMeans) -> None:
        """Take one optimiser step on L_V."""
        value, clip, accelerator = self.models.value, self.ppo.value_clip, self.accelerator
        optimizer = self.models.value_optimizer
        assert value is not None  # called only with a value model
        assert optimizer is not None
        for at, batch in enumerate(minibatch.micro_batches):
            with accumulate_gradients(value, at == len(minibatch.micro_batches) - 1, accelerator):
                values = value(**batch.packed.inputs, score_positions=batch.packed.positions).logits[:, 0]
                loss = batch.weight * clipped_value_loss(values, batch.old_values, batch.returns, clip)
                backward(loss.sum() / minibatch.tokens * accelerator.num_processes, value, accelerator)
            means.add("value_loss", loss)
            means.add("value_clip_fraction", ((values - batch.old_values).abs() > clip).float())
        self.step_optimizer("value", value, optimizer, means)

    def step_optimizer(
        self, name: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer, means: TokenMeans
    ) -> None:
        """Clip the gradient and take an optimiser step; raises RunError if the gradient norm is NaN or infinite."""
        norm = optimizer_step(model, optimizer, self.ppo.max_grad_norm, self.accelerator)
        if not math.isfinite(norm):
            raise RunError(
                f"the {name}'s gradient norm is {norm}; lower ppo.{name}_learning_rate or look at the last rollouts "
                "in rollouts.jsonl (the last checkpoint is intact)"
            )
        means.add(f"{name}_grad_norm", torch.tensor(norm))
