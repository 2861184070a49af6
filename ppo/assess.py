"""The assessment of a rollout before its updates: log-probabilities, values and scores, then rewards and advantages.

Shapes: batch is the number of responses in the step over all ranks, time the length in tokens of the longest one, and
finished the number of responses with an end token. Every (batch, time) tensor is 0 outside the mask. Log-probabilities,
entropy and KL are in nats.
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
    """Outputs of the four models for a rollout, the same on every rank; (batch, time) unless stated otherwise."""

    old_logprobs: torch.Tensor
    """log π_old(y_t): the policy before the step's updates"""
    entropy: torch.Tensor
    """entropy of π_old at each token"""
    ref_logprobs: torch.Tensor
    """log π_ref(y_t): the reference policy"""
    old_values: torch.Tensor
    """V_old of the state before each token; 0 without a value model"""
    part_scores: PartScores
    """raw scores, (finished,), by part of the reward"""


@dataclass(frozen=True)
class Assessment:
    """The inputs of a step's updates and metrics, the same on every rank; (batch, time) unless stated otherwise."""

    mask: torch.Tensor
    """bool, true at response tokens"""
    old_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    entropy: torch.Tensor
    old_values: torch.Tensor
    part_scores: PartScores
    """raw scores, (finished,), by part of the reward"""
    raw_scores: torch.Tensor
    """(finished,) scores before normalisation; those of a mix are in the units of the first step (`RewardMix`)"""
    scores: torch.Tensor
    """(batch,) s: the normalised score, or -missing_end_penalty without an end token; then clipped and penalised"""
    advantages: torch.Tensor
    """A, whitened and clipped as the recipe says"""
    returns: torch.Tensor
    """G, the target of the value model"""
    engine_difference: torch.Tensor | None
    """log π_old - log π_engine; None if the engine returns no comparable log-probabilities"""
    importance: torch.Tensor
    """weight of each token's policy loss: min(π_old / π_engine, ppo.importance_cap) (Yao et al. 2025), or 1"""
    with_control_tokens: torch.Tensor
    """(batch,) bool, true if the response has a control token before its last token"""


def assess(
    models: Models,
    rollout: Rollout,
    ppo: Algorithm,
    temperature: float,
    mix: RewardMix,
    kl_coef: float,
) -> Assessment:
    """Score a rollout and compute its rewards, advantages and returns (collective: every rank must call it).

    Args:
        temperature: the sampling temperature, by which logits are divided before log-probabilities are taken.
        mix: normalises the scores; its running statistics are updated with this rollout's.
        kl_coef: β of this step.

    Raises RunError if a model returns NaN or infinity.
    """
    mask, ended = rollout.mask.to(models.device), rollout.ended.to(models.device)
    outputs = run_models(models, rollout, mask, temperature, ppo.micro_batch_tokens)
    refuse_not_finite(outputs, models.rewards)

    mix.update(outputs.part_scores)
    scores = torch.full((len(mask),), -ppo.missing_end_penalty, device=models.device)
    scores[ended] = mix.normalised(outputs.part_scores).to(scores.dtype)
    scores = clip_and_shorten(scores, mask.sum(1), ppo.reward_clip, ppo.length_penalty, ppo.length_free)
    with_control_tokens = rollout.contains_any(models.control_tokens).to(models.device)
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
        assert difference is not None  # `PPO.check`
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
    """Run the four models over the rollout (collective: every rank must call it).

    A forward pass has at most `budget` tokens. Each rank computes its share of the responses; the outputs for all
    responses are gathered on every rank.
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

    assert old.entropy is not None  # requested by default
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
    """Return log π_old - log π_engine, (batch, time); None if the engine returned no log-probabilities."""
    found = [response.logprobs for response in rollout.responses if response.logprobs is not None]
    if len(found) < len(rollout.responses):
        return None
    flat = torch.tensor([logprob for row in found for logprob in row], device=mask.device)
    return torch.where(mask, old_logprobs - torch.zeros_like(old_logprobs).masked_scatter(mask, flat), 0.0)


def refuse_not_finite(outputs: ModelOutputs, rewards: Sequence[Reward]) -> None:
    """Raise RunError if an output is NaN or infinite, before it can reach a gradient."""
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
            raise RunError(f"{name} of a response is not finite; {way_out} (the last checkpoint is intact)")
