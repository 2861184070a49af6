"""PPO's four models (report, 3.2.2): policy and value are trained; reference and reward are frozen.

Policy and reference start as the SFT model. The value model starts as a copy of the reward model, score offset
included: with centred rewards, values without the offset would train the policy never to stop. If a rule or a judge
gives the rewards, the value model starts as the policy's body with a new head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim import AdamW
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatml import control
from config.sections import Model
from engine.dist.devices import compute_dtype, move
from engine.dist.shard_model import prepare_frozen, prepare_trained
from engine.dist.sharding import full_weights, sharding_of
from engine.errors import RunError
from engine.forward.responses import Tokens
from engine.models.adapters import store_linear_weights
from engine.models.loading import load_causal, load_scalar, new_scalar
from engine.models.saving import save_model
from engine.scoring.scorer import Record, RewardModels, Scorer, rule_or_judge
from ppo.recipe import PPO, Algorithm
from ppo.reward_mix import PartScores
from ppo.reward_section import Part


@dataclass(frozen=True)
class Reward:
    """One part of the reward that PPO maximises, with its loaded scorer."""

    part: Part
    scorer: Scorer
    """reward models, a rule or a judge"""


@dataclass
class Models:
    """Policy and value model, wrapped for training, with their optimisers, and the frozen reference and rewards."""

    policy: torch.nn.Module
    policy_optimizer: torch.optim.Optimizer
    value: torch.nn.Module | None
    """None for ppo.advantage=rloo and grpo"""
    value_optimizer: torch.optim.Optimizer | None
    reference: torch.nn.Module
    rewards: list[Reward]
    """the only reward, or the parts of a mix"""
    device: torch.device
    as_policy: Callable[[], AbstractContextManager[None]] = nullcontext
    """context in which the reference runs, so that it computes in the same precision as the policy"""
    control_tokens: frozenset[int] = frozenset()
    """ids of ChatML's control tokens, which a response should not contain before its end"""
    offloaded: list[torch.nn.Module] = field(default_factory=list)
    """frozen models that are kept in CPU memory while they are not in use"""

    @property
    def trained(self) -> dict[str, tuple[torch.nn.Module, torch.optim.Optimizer]]:
        """The trained models with their optimisers, by name: "policy", and "value" if there is a value model."""
        found = {"policy": (self.policy, self.policy_optimizer)}
        if self.value is not None and self.value_optimizer is not None:
            found["value"] = (self.value, self.value_optimizer)
        return found

    @contextmanager
    def frozen_on_device(self) -> Iterator[None]:
        """Keep the offloaded models on the device within the block."""
        for frozen in self.offloaded:
            frozen.to(self.device)
        try:
            yield
        finally:
            for frozen in self.offloaded:
                frozen.to("cpu")

    def score(
        self, sequences: Sequence[Tokens], starts: Sequence[int], records: Sequence[Record], budget: int
    ) -> PartScores:
        """Return the raw scores, (sequences,), by part of the reward; the arguments are those of a `Scorer`."""
        return {reward.part.name: reward.scorer(sequences, starts, records, budget) for reward in self.rewards}

    def writer(
        self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator
    ) -> Callable[[Path], None]:
        """Return a function that writes a trained model to a folder (collective: every rank must call `writer`)."""
        return partial(save_model, accelerator.unwrap_model(model), tokenizer, weights=full_weights(model, accelerator))


def load_models(recipe: PPO, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator) -> Models:
    """Load the four models onto the device, ready to train, without dropout (collective: every rank must call it).

    Raises RunError if the policy has weights that are NaN or infinite.
    """
    model, device = replace(recipe.model, attention_dropout=0.0), accelerator.device
    paths = [path for _, path in recipe.reward.models]
    # A model that will be sharded is moved to the device shard by shard, since it may not fit as a whole.
    sharded = sharding_of(accelerator).kind in ("fsdp2", "zero3")
    arrival = torch.device("cpu") if sharded else device
    loaded = load_causal(model.path, model, tokenizer, trained=True, as_stored=sharded, device=arrival)
    refuse_not_finite_weights(loaded, model.path)
    frozen_device = torch.device("cpu") if recipe.ppo.offload_frozen else arrival
    frozen: dict[str, Any] = {"trained": False, "as_stored": sharded, "device": frozen_device}
    rewards: list[torch.nn.Module] = [load_scalar(path, model, tokenizer, **frozen) for path in paths]
    # FSDP2 needs each model prepared with its own optimiser, one pair at a time and always in this order.
    policy, policy_optimizer = prepare_model(loaded, recipe.ppo, recipe.ppo.policy_learning_rate, accelerator)
    value: torch.nn.Module | None = None
    value_optimizer: torch.optim.Optimizer | None = None
    if recipe.ppo.advantage == "gae":
        new = load_value(paths, model, tokenizer, recipe.run.seed, sharded)
        move(new, arrival)
        value, value_optimizer = prepare_model(new, recipe.ppo, recipe.ppo.value_learning_rate, accelerator)
    as_policy = nullcontext
    reference: torch.nn.Module
    if sharding_of(accelerator).kind == "none":
        reference, as_policy = load_reference(model, tokenizer, frozen_device), accelerator.autocast
    else:
        reference = load_causal(model.path, model, tokenizer, **frozen)
    if not recipe.ppo.offload_frozen:
        reference = prepare_frozen(reference, accelerator)
        rewards = [prepare_frozen(reward, accelerator) for reward in rewards]
    return Models(
        policy=policy,
        policy_optimizer=policy_optimizer,
        value=value,
        value_optimizer=value_optimizer,
        reference=reference,
        rewards=build_rewards(recipe, rewards, tokenizer, device),
        device=device,
        as_policy=as_policy,
        control_tokens=control_ids(tokenizer),
        offloaded=[reference, *rewards] if recipe.ppo.offload_frozen else [],
    )


def build_rewards(
    recipe: PPO, models: Sequence[torch.nn.Module], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> list[Reward]:
    """Return a recipe's rewards; `models` are its loaded reward models, in the order of `recipe.reward.models`."""
    left, rewards = iter(models), []
    for part in recipe.reward.parts:
        scoring = part.scoring
        if scoring.paths:
            scorer: Scorer = RewardModels([next(left) for _ in scoring.paths], scoring.std_coef)
        else:
            cache = f"judge_{part.name}.jsonl" if part.name else "judge.jsonl"
            scorer = rule_or_judge(scoring, part.key, tokenizer, Path(recipe.run.dir), device, cache)
        rewards.append(Reward(part, scorer))
    return rewards


def refuse_not_finite_weights(policy: PreTrainedModel, path: str) -> None:
    """Raise RunError if a weight is NaN or infinite; generation engines would fail on it with an unclear error."""
    for name, weight in policy.named_parameters():
        if not weight.isfinite().all():
            raise RunError(f"model.path={path}: {name} has values that are not finite (NaN); take another checkpoint")


def load_reference(model: Model, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> PreTrainedModel:
    """Load the reference for a policy that is trained under autocast; it must run under autocast too.

    Only its linear weights are stored in the compute type, to which autocast would convert them anyway. Stored in
    bfloat16 as a whole, its residual stream would be rounded where the policy's is not, which shifts log-probabilities
    by 0.04 nats per token on average where the true KL is 0.
    """
    reference = load_causal(model.path, replace(model, dtype="float32"), tokenizer, trained=False)
    store_linear_weights(reference, compute_dtype(model), rounding=True)
    move(reference, device)
    return reference


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids of <|im_start|>, <|im_end|> and <|endoftext|>."""
    ids = control(tokenizer)
    return frozenset((ids.im_start, ids.im_end, ids.endoftext))


def load_value(
    paths: list[str], model: Model, tokenizer: PreTrainedTokenizerBase, seed: int, as_stored: bool
) -> PreTrainedModel:
    """Load the value model: a copy of the first reward model in `paths`, or the policy's body with a new head."""
    if paths:
        return load_scalar(paths[0], model, tokenizer, trained=True, as_stored=as_stored)
    return new_scalar(model.path, model, tokenizer, seed).train()


def prepare_model(
    model: PreTrainedModel, ppo: Algorithm, learning_rate: float, accelerator: Accelerator
) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Wrap a model for training and return it with its optimiser."""
    if ppo.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return prepare_trained(model, partial(adamw, ppo=ppo, learning_rate=learning_rate), ppo.max_grad_norm, accelerator)


def adamw(model: torch.nn.Module, ppo: Algorithm, learning_rate: float) -> AdamW:
    """Return AdamW over the trainable weights, which are float32.

    The report states no optimiser constants for PPO; the defaults of betas and epsilon are those of its SFT (3.1.2).
    """
    beta1, beta2 = ppo.adam_betas
    return AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=learning_rate,
        betas=(beta1, beta2),
        eps=ppo.adam_epsilon,
        weight_decay=ppo.weight_decay,
        fused=ppo.fused_adamw or None,  # None: torch chooses a non-fused implementation
    )
