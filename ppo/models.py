"""PPO's four models (report, 3.2.2): policy and value are trained; reference and reward are frozen.

The policy starts as the SFT model and the reference stays it. The value model starts as a copy of the reward model,
score offset included: against centred rewards an uncentred value would teach the policy never to stop. Where a rule or
a judge gives the rewards, it starts as the policy's body with a fresh head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.optim import AdamW
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from config.sections import Model
from engine.dist.shard_model import prepare_frozen, prepare_trained
from engine.dist.sharding import sharding_of
from engine.errors import RunError
from engine.models.loading import load_causal, load_scalar, new_scalar
from engine.scoring.scorer import RewardModels, Scorer, rule_or_judge
from ppo.recipe import PPO


@dataclass
class Models:
    """Wrapped policy and value with their optimisers, and the frozen two."""

    policy: torch.nn.Module
    policy_optimizer: torch.optim.Optimizer
    value: torch.nn.Module | None
    """None where advantages are measured against a query's other responses"""
    value_optimizer: torch.optim.Optimizer | None
    reference: PreTrainedModel
    scorer: Scorer
    """reward models, or what stands in their place"""
    device: torch.device
    waiting: list[PreTrainedModel] = field(default_factory=list)
    """frozen models that stay in the CPU's memory between their uses"""

    @property
    def trained(self) -> dict[str, tuple[torch.nn.Module, torch.optim.Optimizer]]:
        """Models that learn, with their optimisers, by name."""
        found = {"policy": (self.policy, self.policy_optimizer), "value": (self.value, self.value_optimizer)}
        return {name: pair for name, pair in found.items() if pair[0] is not None}

    @contextmanager
    def fetched(self) -> Iterator[None]:
        """The frozen models on the device for a while."""
        for frozen in self.waiting:
            frozen.to(self.device)
        yield
        for frozen in self.waiting:
            frozen.to("cpu")


def load_models(recipe: PPO, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator) -> Models:
    """All four on the device, dropout off, ready to train."""
    model, device = replace(recipe.model, attention_dropout=0.0), accelerator.device
    paths = recipe.reward.paths
    # What is shared out goes to the device piece by piece.
    stored = sharding_of(accelerator).kind in ("fsdp2", "zero3")
    arrival = torch.device("cpu") if stored else device
    policy = load_causal(model.path, model, tokenizer, trained=True, as_stored=stored, device=arrival)
    waiting = torch.device("cpu") if recipe.ppo.offload_frozen else arrival
    frozen = {"trained": False, "as_stored": stored, "device": waiting}
    rewards = [load_scalar(path, model, tokenizer, **frozen) for path in paths]
    for path, reward in zip(paths, rewards, strict=True):
        same_vocabulary(policy, reward, path)
    # One model with its optimiser at a time and always in this order: FSDP2 wants it, and checkpoints number by it.
    prepared_policy = prepare_model(policy, recipe, recipe.ppo.policy_learning_rate, accelerator)
    prepared_value = (None, None)
    if recipe.ppo.advantage == "gae":
        value = load_value(paths, model, tokenizer, recipe.run.seed, stored).to(arrival)
        prepared_value = prepare_model(value, recipe, recipe.ppo.value_learning_rate, accelerator)
    reference = load_causal(model.path, model, tokenizer, **frozen)
    if not recipe.ppo.offload_frozen:
        reference = prepare_frozen(reference, accelerator)
        rewards = [prepare_frozen(reward, accelerator) for reward in rewards]
    scorer: Scorer = RewardModels(rewards, recipe.reward.std_coef)
    if not paths:
        scorer = rule_or_judge(recipe.reward, "reward", tokenizer, Path(recipe.run.dir), device)
    offloaded = [reference, *rewards] if recipe.ppo.offload_frozen else []
    return Models(*prepared_policy, *prepared_value, reference, scorer, device, offloaded)


def load_value(
    paths: list[str], model: Model, tokenizer: PreTrainedTokenizerBase, seed: int, as_stored: bool
) -> PreTrainedModel:
    """A copy of the (first) reward model; where there is none, the policy's body with a fresh head."""
    if paths:
        return load_scalar(paths[0], model, tokenizer, trained=True, as_stored=as_stored)
    return new_scalar(model.path, model, tokenizer, seed).train()


def prepare_model(
    model: PreTrainedModel, recipe: PPO, learning_rate: float, accelerator: Accelerator
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model to be trained, wrapped, with its optimiser."""
    if recipe.ppo.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    optimizer_of = partial(adamw, recipe=recipe, learning_rate=learning_rate)
    return prepare_trained(model, optimizer_of, recipe.ppo.max_grad_norm, accelerator)


def same_vocabulary(policy: PreTrainedModel, reward: PreTrainedModel, path: str) -> None:
    """Policy and reward model read the same token ids; RunError if their tables or end tokens disagree."""
    if policy.config.vocab_size != reward.config.vocab_size:
        raise RunError(
            f"reward.path={path} has a vocabulary of {reward.config.vocab_size}, the policy one of "
            f"{policy.config.vocab_size}; both must come from the same base"
        )
    if reward.config.score_token_id not in policy.generation_config.eos_token_id:
        raise RunError(f"reward.path={path} reads its score at another token than the policy's <|im_end|>")


def adamw(model: PreTrainedModel, recipe: PPO, learning_rate: float) -> AdamW:
    """AdamW over float32 weights; its constants are the report's for SFT (3.1.2), which states none for PPO."""
    ppo = recipe.ppo
    return AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=learning_rate,
        betas=tuple(ppo.adam_betas),
        eps=ppo.adam_epsilon,
        weight_decay=ppo.weight_decay,
        fused=ppo.fused_adamw or None,  # None: what torch thinks best of the rest
    )
