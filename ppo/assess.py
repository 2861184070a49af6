"""What is known of a rollout before any update: log-probabilities, values and scores; from them rewards and advantages.

Shapes: batch is the step's responses, time the longest response; every (batch, time) tensor is 0 outside the mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.dist.collectives import all_gather_ragged, take_share
from engine.errors import RunError
from engine.forward.responses import response_logprobs, response_values
from ppo.advantages import clip_and_shorten, gae, group_advantages, penalised_rewards, whiten
from ppo.kl import kl_estimate
from ppo.models import Models, Reward
from ppo.recipe import Algorithm
from ppo.reward_mix import PartScores, RewardMix
from ppo.rollout import Rollout


@dataclass(frozen=True)
class ModelOutputs:
    """What the four models compute of a rollout; (batch, time) unless said otherwise, log-probabilities in nats."""

    old_logprobs: torch.Tensor
    """log π_old(y_t), of the policy before the step's updates"""
    entropy: torch.Tensor
    """of π_old at each token"""
    ref_logprobs: torch.Tensor
    """log π_ref(y_t)"""
    old_values: torch.Tensor
    """V of the state before each token; 0 without a value model"""
    part_scores: PartScores
    """(finished responses,) of each part of the reward, before normalisation"""


@dataclass(frozen=True)
class Assessment:
    """All that the updates of a step read; (batch, time) unless said otherwise."""

    mask: torch.Tensor
    """true at response tokens"""
    old_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    entropy: torch.Tensor
    old_values: torch.Tensor
    part_scores: PartScores
    """(finished responses,) of each part of the reward, before normalisation"""
    raw_scores: torch.Tensor
    """(finished responses,) the reward, before normalisation; of a mix in the units of the first step"""
    scores: torch.Tensor
    """(batch,) normalised, or the penalty where there is no end token; clipped, less the length penalty"""
    advantages: torch.Tensor
    """whitened and clipped as the recipe asks"""
    returns: torch.Tensor
    engine_difference: torch.Tensor | None
    """log π_old of the trainer less the engine's; None where the engine returns no comparable log-probabilities"""
    importance: torch.Tensor
    """weight of each token's policy loss: π_old / π_engine, capped; or 1"""
    with_control_tokens: torch.Tensor
    """(batch,) true where the response has a control token before its last token"""


def assess(
    models: Models,
    rollout: Rollout,
    ppo: Algorithm,
    temperature: float,
    mix: RewardMix,
    kl_coef: float,
) -> Assessment:
    """Return rewards' advantages and all that they are computed from (collective: every rank must call it).

    `mix` takes in the rollout's scores. Raises RunError where a model returns NaN or infinity.
    """
    mask, ended = rollout.mask.to(models.device), rollout.ended.to(models.device)
    outputs = run_models(models, rollout, mask, temperature, ppo.micro_batch_tokens)
    refuse_not_finite(outputs, models.rewards)

    mix.update(outputs.part_scores)
    scores = torch.full((len(mask),), -ppo.missing_end_penalty, device=models.device)
    scores[ended] = mix.normalised(outputs.part_scores).to(scores.dtype)
    scores = clip_and_shorten(scores, mask.sum(1), ppo.reward_clip, ppo.length_penalty, ppo.length_free)
    with_control_tokens = rollout.contain(models.control_tokens).to(models.device)
    scores = torch.where(with_control_tokens, scores - ppo.control_token_penalty, scores)

    kl = kl_estimate(outputs.old_logprobs, outputs.ref_logprobs, ppo.kl_estimator)
    rewards = penalised_rewards(scores, kl, mask, kl_coef)
    if ppo.advantage == "gae":
        advantages, returns = gae(rewards, outputs.old_values, mask, ppo.gamma, ppo.lam)
    else:
        advantages, returns = group_advantages(rewards, mask, ppo.responses_per_query, ppo.advantage)
    if ppo.whiten_advantages:
        advantages = whiten(advantages, mask)
    if ppo.advantage_clip is not None:
        advantages = advantages.clamp(-ppo.advantage_clip, ppo.advantage_clip)

    difference = engine_difference(rollout, outputs.old_logprobs, mask)
    importance = torch.ones_like(outputs.old_logprobs)
    if ppo.importance_cap is not None:
        importance = difference.exp().clamp(max=ppo.importance_cap)
    return Assessment(
        mask=mask,
        old_logprobs=outputs.old_logprobs,
        ref_logprobs=outputs.ref_logprobs,
        entropy=outputs.entropy,
        old_values=outputs.old_values,
        part_scores=outputs.part_scores,
        raw_scores=mix.comparable(outputs.part_scores),
        scores=scores,
        advantages=advantages,
        returns=returns,
        engine_difference=difference,
        importance=importance,
        with_control_tokens=with_control_tokens,
    )


def run_models(models: Models, rollout: Rollout, mask: torch.Tensor, temperature: float, budget: int) -> ModelOutputs:
    """Run the four models over the rollout, `budget` tokens a forward (collective: every rank must call it).

    Each rank computes its share of the responses; all ranks get all of them.
    """
    prompts, tokens = take_share(rollout.prompts), take_share(rollout.tokens)
    supports = rollout.supports and take_share(rollout.supports)
    finished = take_share([pair for pair in zip(rollout.rows, rollout.responses, strict=True) if pair[1].ended])
    conversations = [[*row.input_ids, *response.tokens] for row, response in finished]
    starts = [len(row.input_ids) for row, _ in finished]
    records = [row.record for row, _ in finished]

    old = response_logprobs(models.policy, prompts, tokens, temperature, budget, supports)
    with models.frozen_on_device():
        with models.as_policy():
            reference = response_logprobs(
                models.reference, prompts, tokens, temperature, budget, supports, with_entropy=False
            )
        scores = models.score(conversations, starts, records, budget)
    values = torch.zeros_like(old.logprobs)
    if models.value is not None:
        values = response_values(models.value, prompts, tokens, budget)

    per_token = torch.stack([old.logprobs, old.entropy, reference.logprobs, values.to(old.logprobs.dtype)])
    gathered = all_gather_ragged(per_token, [len(row) for row in tokens])
    old_logprobs, entropy, ref_logprobs, old_values = (
        torch.zeros(mask.shape, device=models.device).masked_scatter(mask, flat) for flat in gathered
    )
    return ModelOutputs(
        old_logprobs=old_logprobs,
        entropy=entropy,
        ref_logprobs=ref_logprobs,
        old_values=old_values,
        part_scores={name: all_gather_ragged(of_part, [1] * len(finished)) for name, of_part in scores.items()},
    )


def engine_difference(rollout: Rollout, old_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
    """Return (batch, time) log π_old of the trainer less the engine's; None where the engine returned none."""
    found = [response.logprobs for response in rollout.responses]
    if None in found:
        return None
    flat = torch.tensor([logprob for row in found for logprob in row], device=mask.device)
    return torch.where(mask, old_logprobs - torch.zeros_like(old_logprobs).masked_scatter(mask, flat), 0.0)


def refuse_not_finite(outputs: ModelOutputs, rewards: Sequence[Reward]) -> None:
    """Raise RunError, before anything is trained on it, if an output is NaN or infinite."""
    checkpoint = "look at that model's checkpoint"
    found = [
        ("log π_old", outputs.old_logprobs, checkpoint),
        ("log π_ref", outputs.ref_logprobs, checkpoint),
        ("the value", outputs.old_values, checkpoint),
    ]
    for part in (reward.part for reward in rewards):
        name = part.key if part.name else "the reward"
        found.append((name, outputs.part_scores[part.name], f"look at {part.scoring.source}"))
    for name, values, way_out in found:
        if not values.isfinite().all():
            raise RunError(f"{name} of an answer is not finite; {way_out} (the last checkpoint is intact)")
