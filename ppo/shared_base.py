"""`models: shared`: policy, value, reference and reward as LoRA adapters of one base in memory.

The policy starts as a copy of the SFT adapter, the value model as a copy of the reward adapter. The copies are float32
and trained; the originals are frozen and stored in the compute type, as is the base unless it is stored in 4 bits.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from transformers import PreTrainedTokenizerBase

from engine.dist.devices import compute_dtype
from engine.errors import RunError
from engine.models.adapter_files import Adapter, read_adapter, write_adapter
from engine.models.loading import load_causal
from engine.models.multi_adapter import Role, Roles, recompute_activations
from ppo.models import Models, adamw, build_rewards, control_ids
from ppo.recipe import PPO


@dataclass
class SharedBaseModels(Models):
    """The four models as roles of one base; trained roles are saved as adapters."""

    def writer(
        self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator
    ) -> Callable[[Path], None]:
        role = accelerator.unwrap_model(model)
        return partial(write_adapter, role.adapter, role.tensors(), role.base, tokenizer)


def load_shared(recipe: PPO, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator) -> SharedBaseModels:
    """Load one base with all four roles, ready to train.

    Raises RunError if the ranks are sharded, a reward model is missing, or the adapters do not share one base.
    """
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise RunError("models=shared runs in one process or under ddp; use HARDWARE=ddp, or set models=full")
    if not recipe.reward.models:
        raise RunError("models=shared needs the reward model's adapter: give reward.path, or set models=full")
    sft = read_adapter(recipe.model.path, "model.path")
    rewards = [read_adapter(path, key) for key, path in recipe.reward.models]
    base_path = common_base(sft, rewards, recipe)
    plain = replace(recipe.model, path=base_path, attention_dropout=0.0)
    base = load_causal(
        base_path, plain, tokenizer, trained=False, in_4bit=recipe.ppo.load_in_4bit, device=accelerator.device
    )
    roles, low = Roles(), compute_dtype(recipe.model)
    if recipe.ppo.gradient_checkpointing:
        recompute_activations(base, roles)

    def trained_role(name: str, adapter: Adapter, rate: float) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        role = Role(base, roles, name, adapter, torch.float32, trained=True)
        return accelerator.prepare(role, adamw(role, recipe.ppo, rate))

    policy, policy_optimizer = trained_role("policy", sft, recipe.ppo.policy_learning_rate)
    value = value_optimizer = None
    if recipe.ppo.advantage == "gae":
        value, value_optimizer = trained_role("value", rewards[0], recipe.ppo.value_learning_rate)
    reference = Role(base, roles, "reference", sft, low, trained=False)
    reward_roles = [Role(base, roles, f"reward{at}", reward, low, trained=False) for at, reward in enumerate(rewards)]
    return SharedBaseModels(
        policy=policy,
        policy_optimizer=policy_optimizer,
        value=value,
        value_optimizer=value_optimizer,
        reference=reference,
        rewards=build_rewards(recipe, reward_roles, tokenizer, accelerator.device),
        device=accelerator.device,
        control_tokens=control_ids(tokenizer),
    )


def common_base(sft: Adapter, rewards: list[Adapter], recipe: PPO) -> str:
    """Return the base model that all adapters name.

    Raises RunError if they name different bases, if the SFT adapter has a scalar head, or if a reward adapter has none.
    """
    named = {f"{part.key}.path": part.scoring.path for part in recipe.reward.parts if part.scoring.paths}
    if sft.is_scalar or not all(reward.is_scalar for reward in rewards):
        raise RunError(
            f"models=shared: model.path={recipe.model.path} must be an SFT adapter "
            f"and {' and '.join(f'{key}={path}' for key, path in named.items())} a reward model's"
        )
    names = {canonical_name(adapter.config["base_model_name_or_path"]) for adapter in (sft, *rewards)}
    if len(names) > 1:
        raise RunError(
            f"models=shared: the adapters of model.path and {', '.join(named)} name different bases, "
            f"{', '.join(sorted(names))}; train them from the same base, or set models=full"
        )
    return sft.config["base_model_name_or_path"]


def canonical_name(base: str) -> str:
    """Return a base's name, with the path of a folder resolved so that all ways to write it compare equal."""
    return os.path.realpath(base) if os.path.exists(base) else base
