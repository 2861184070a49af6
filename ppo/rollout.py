"""A rollout: responses sampled from the policy, and what the four models say of them before any update."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.data.order import stream
from engine.data.prompt_rows import PromptRow
from engine.dist.collectives import all_gather_items, all_gather_ragged, take_share
from engine.errors import RunError
from engine.forward.responses import response_logprobs, response_values
from engine.generation.engines import Engine
from engine.generation.sampling import Response
from ppo.advantages import ScoreNormaliser, gae, group_advantages, penalised_rewards, whiten
from ppo.kl import kl_estimate
from ppo.models import Models
from ppo.recipe import PPO, Algorithm


@dataclass(frozen=True)
class Rollout:
    """The responses of all processes, known to each of them, one row each: K rows a query, side by side."""

    rows: list[PromptRow]
    """the prompt rows, repeated for each response"""
    responses: list[Response]

    @property
    def prompts(self) -> list[list[int]]:
        return [row.input_ids for row in self.rows]

    @property
    def tokens(self) -> list[list[int]]:
        return [response.tokens for response in self.responses]

    @property
    def ended(self) -> torch.Tensor:
        """(batch,) bool"""
        return torch.tensor([response.ended for response in self.responses])

    @property
    def supports(self) -> list[list[array]] | None:
        """The set that each token of each response was drawn from, where that was recorded."""
        found = [response.supports for response in self.responses]
        return None if None in found else found

    @property
    def mask(self) -> torch.Tensor:
        """(batch, longest response) true at response tokens"""
        lengths = torch.tensor([len(response.tokens) for response in self.responses])
        return torch.arange(int(lengths.max())) < lengths[:, None]


@dataclass(frozen=True)
class Judged:
    """What was known of a rollout before the first update; (batch, time) unless said otherwise."""

    mask: torch.Tensor
    old_logprobs: torch.Tensor
    ref_logprobs: torch.Tensor
    entropy: torch.Tensor
    old_values: torch.Tensor
    raw_scores: torch.Tensor
    """(finished responses,) the reward model's, before normalisation"""
    scores: torch.Tensor
    """(batch,) normalised, the penalty where there is no end token, clipped, less what length costs"""
    advantages: torch.Tensor
    """whitened and clipped, if the recipe says so"""
    returns: torch.Tensor
    engine_difference: torch.Tensor | None
    """log π_old of the trainer less the engine's; None where the engine does not tell its own"""
    importance: torch.Tensor
    """weight of each token's policy gain: π_old / π_engine, capped, or 1"""


def queries_at(recipe: PPO, step: int, total: int) -> list[int]:
    """Which prompts step `step` (from 1) asks: a pure function of seed and step."""
    per_step = recipe.ppo.queries_per_step
    return stream(recipe.run.seed, total, (step - 1) * per_step, per_step)


def roll(engine: Engine, recipe: PPO, prompts: Sequence[PromptRow], queries: list[int], step: int) -> Rollout:
    """y_k ~ π_θ(· | x), K for each of `queries` (indices into `prompts`); each process writes its share of them."""
    count, mine = recipe.ppo.responses_per_query, take_share(queries)
    answers = engine.write(
        [prompts[q].input_ids for q in mine], responses=count, step=step, query_ids=mine,
        record=recipe.sampling.logprobs == "truncated",
    )  # fmt: skip
    rows = [row for q in queries for row in [prompts[q]] * count]
    return Rollout(rows, [response for group in all_gather_items(answers) for response in group])


def judge(models: Models, recipe: PPO, rollout: Rollout, normaliser: ScoreNormaliser, kl_coef: float) -> Judged:
    """Old and reference log-probabilities, values and scores; from them rewards, advantages and returns.

    Each process puts its share through the models, and all know what came of it. Without a value model values are 0.
    """
    ppo, device = recipe.ppo, models.device
    ended, mask = rollout.ended.to(device), rollout.mask.to(device)
    per_token, raw_scores = through_models(models, recipe, rollout)
    old_logprobs, entropy, reference, values = (
        torch.zeros(mask.shape, device=device).masked_scatter(mask, flat) for flat in per_token
    )
    refuse_not_finite(
        {"log π_old": old_logprobs, "log π_ref": reference, "the value": values}, "look at that model's checkpoint"
    )
    refuse_not_finite({"the reward": raw_scores}, f"look at {recipe.reward.source}")

    normaliser.update(raw_scores)
    scores = torch.full((len(mask),), -ppo.missing_end_penalty, device=device)
    scores[ended] = normaliser(raw_scores).to(scores.dtype)
    scores = shaped(scores, mask.sum(1), ppo)

    rewards = penalised_rewards(scores, kl_estimate(old_logprobs, reference, ppo.kl_estimator), mask, kl_coef)
    advantages, returns = gae(rewards, values, mask, ppo.gamma, ppo.lam)
    if ppo.advantage != "gae":
        advantages = group_advantages(rewards, mask, ppo.responses_per_query, ppo.advantage)
    if ppo.whiten_advantages:
        advantages = whiten(advantages, mask)
    if ppo.advantage_clip is not None:
        advantages = advantages.clamp(-ppo.advantage_clip, ppo.advantage_clip)
    difference = engine_difference(rollout, old_logprobs, mask)
    importance = torch.ones_like(old_logprobs)
    if ppo.importance_cap is not None:
        importance = difference.exp().clamp(max=ppo.importance_cap)
    return Judged(
        mask, old_logprobs, reference, entropy, values, raw_scores, scores, advantages, returns,
        difference, importance,
    )  # fmt: skip


def through_models(models: Models, recipe: PPO, rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor]:
    """(4, tokens): log π_old, π_old's entropy, log π_ref and V of every response token; (finished responses,): scores.

    This process computes those of its share.
    """
    prompts, tokens = take_share(rollout.prompts), take_share(rollout.tokens)
    supports = rollout.supports and take_share(rollout.supports)
    finished = take_share([pair for pair in zip(rollout.rows, rollout.responses, strict=True) if pair[1].ended])
    conversations = [[*row.input_ids, *response.tokens] for row, response in finished]
    records = [row.record for row, _ in finished]
    budget, temperature = recipe.ppo.micro_batch_tokens, recipe.sampling.temperature

    old = response_logprobs(models.policy, prompts, tokens, temperature, budget, supports)
    with models.fetched():
        reference = response_logprobs(
            models.reference, prompts, tokens, temperature, budget, supports, with_entropy=False
        )
        scores = models.scorer(conversations, records, budget)
    values = torch.zeros_like(old.logprobs)
    if models.value is not None:
        values = response_values(models.value, prompts, tokens, budget)
    per_token = torch.stack([old.logprobs, old.entropy, reference.logprobs, values.to(old.logprobs.dtype)])
    return all_gather_ragged(per_token, [len(row) for row in tokens]), all_gather_ragged(scores, [1] * len(scores))


def engine_difference(rollout: Rollout, old_logprobs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor | None:
    """(batch, time) log π_old as the trainer computes it, less as the engine did; None where that did not tell."""
    told = [response.logprobs for response in rollout.responses]
    if None in told:
        return None
    flat = torch.tensor([logprob for row in told for logprob in row], device=mask.device)
    return torch.where(mask, old_logprobs - torch.zeros_like(old_logprobs).masked_scatter(mask, flat), 0.0)


def shaped(scores: torch.Tensor, lengths: torch.Tensor, ppo: Algorithm) -> torch.Tensor:
    """(batch,) scores, clipped, then less what the response's tokens cost; both are off by default."""
    if ppo.reward_clip is not None:
        scores = scores.clamp(-ppo.reward_clip, ppo.reward_clip)
    return scores - ppo.length_penalty * (lengths - ppo.length_free).clamp(min=0)


def refuse_not_finite(measured: dict[str, torch.Tensor], way_out: str) -> None:
    """RunError, before anything is learnt from it, if one of some tensors holds a NaN or an infinity."""
    for name, values in measured.items():
        if not values.isfinite().all():
            raise RunError(f"{name} of an answer is not finite; {way_out} (the last checkpoint is intact)")
