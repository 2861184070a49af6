"""A whole PPO step against a simple implementation: a loop over responses without packing, chunks or masks."""

import math

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.distributions import Categorical
from torch.testing import assert_close

from chatml import control
from engine.forward.attention import use_attention
from engine.generation.engines import OwnEngine
from engine.generation.request import Response
from engine.models.tokenizer import load_tokenizer
from engine.run.folder import RunFolder
from ppo.minibatches import minibatch_rows
from ppo.models import load_models
from ppo.reward_mix import RewardMix
from ppo.rollout import Rollout
from ppo.step_metrics import measure
from ppo.train import load_data
from tests.support.ppo_setting import assess_by, make_setting, recipe_of, sampler_of, updater_of
from tests.support.stage_runs import has_gradient


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def start(path, *overrides):
    recipe = recipe_of(path, *overrides)
    accelerator = Accelerator(cpu=True)
    tokenizer = load_tokenizer(recipe.model.path)
    prompts, pretrain, _ = load_data(recipe, tokenizer, RunFolder(recipe))
    models = load_models(recipe, tokenizer, accelerator)
    engine = OwnEngine(models.policy, recipe.sampling, control(tokenizer).im_end, accelerator=accelerator)
    rollout = sampler_of(recipe, engine, prompts).sample(1)
    return recipe, models, rollout, pretrain, accelerator


def batched_step(recipe, models, rollout, pretrain, accelerator, step):
    assessment = assess_by(recipe, models, rollout)
    return assessment, updater_of(recipe, models, pretrain, accelerator).update(rollout, assessment, step)


def plain_logits(model, prompt, response):
    """Return the logits (tokens, vocabulary) of the response tokens; the sampling temperature is 1."""
    with use_attention(model, "sdpa"):
        return model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1]


def plain_logprobs(model, prompt, response):
    return -F.cross_entropy(plain_logits(model, prompt, response), torch.tensor(response), reduction="none")


def plain_values(model, prompt, response):
    with use_attention(model, "sdpa"):
        hidden = model.model(torch.tensor([[*prompt, *response]]), use_cache=False).last_hidden_state[0]
    return model.score(hidden)[len(prompt) - 1 : -1, 0] - model.config.score_offset


def plain_step(recipe, models, rollout, pretrain, accelerator):
    """Apply the equations of ppo/train.py to one response at a time."""
    ppo, pairs = recipe.ppo, list(zip(rollout.prompts, rollout.tokens, strict=True))
    with torch.no_grad():
        old_logprobs = [plain_logprobs(models.policy, x, y) for x, y in pairs]
        old_values = [plain_values(models.value, x, y) for x, y in pairs]
        references = [plain_logprobs(models.reference, x, y) for x, y in pairs]
        (reward,) = models.rewards[0].scorer.models
        with use_attention(reward, "sdpa"):
            raw = [
                reward(torch.tensor([[*x, *response.tokens]])).logits.item() if response.ended else None
                for x, response in zip(rollout.prompts, rollout.responses, strict=True)
            ]
    mean = sum(s for s in raw if s is not None) / sum(s is not None for s in raw)
    advantages, returns = [], []
    for lp, ref, v, s in zip(old_logprobs, references, old_values, raw, strict=True):
        rewards = [-ppo.kl_coef * float(a - b) for a, b in zip(lp, ref, strict=True)]
        score = -ppo.missing_end_penalty if s is None else s - mean
        bound = ppo.reward_clip or math.inf
        rewards[-1] += min(max(score, -bound), bound) - ppo.length_penalty * max(len(rewards) - ppo.length_free, 0)
        values, advantage, of_response = [*v.tolist(), 0.0], 0.0, []
        for t in reversed(range(len(rewards))):
            advantage = rewards[t] + ppo.gamma * values[t + 1] - values[t] + ppo.gamma * ppo.lam * advantage
            of_response.insert(0, advantage)
        advantages.append(torch.tensor(of_response))
        returns.append(torch.tensor(of_response) + v)
    pooled = torch.cat(advantages)
    bound = ppo.advantage_clip or math.inf
    whitened = [((a - pooled.mean()) / pooled.std(correction=0)).clamp(-bound, bound) for a in advantages]

    for rows in minibatch_rows(len(pairs), ppo, recipe.run.seed, step=2):
        tokens = sum(len(pairs[r][1]) for r in rows)
        policy_loss, value_loss = torch.zeros(()), torch.zeros(())
        for r in rows:
            count = tokens if ppo.loss_mean == "token" else len(pairs[r][1]) * len(rows)
            ratio = (plain_logprobs(models.policy, *pairs[r]) - old_logprobs[r]).exp()
            objective = torch.min(ratio * whitened[r], ratio.clamp(1 - ppo.clip, 1 + ppo.clip) * whitened[r])
            policy_loss = policy_loss - objective.sum() / count
            if ppo.entropy_coef:
                entropy = Categorical(logits=plain_logits(models.policy, *pairs[r])).entropy()
                policy_loss = policy_loss - ppo.entropy_coef * entropy.sum() / count
            v = plain_values(models.value, *pairs[r])
            clipped = old_values[r] + (v - old_values[r]).clamp(-ppo.value_clip, ppo.value_clip)
            squared_error = torch.max((v - returns[r]) ** 2, (clipped - returns[r]) ** 2)
            value_loss = value_loss + 0.5 * squared_error.sum() / count
        if pretrain is not None:
            texts, predicted = pretrain.take(tokens)
            assert sum(len(s) - 1 for s in texts) == predicted >= ppo.pretrain_ratio * tokens
            nll = torch.cat([-plain_logprobs(models.policy, s[:1], s[1:]) for s in texts])
            policy_loss = policy_loss + ppo.pretrain_coef * nll.mean()
        for loss, model, optimizer in (
            (policy_loss, models.policy, models.policy_optimizer),
            (value_loss, models.value, models.value_optimizer),
        ):
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), ppo.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()


def assert_same_weights(one, other):
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        if has_gradient(name):
            assert_close(p, q, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["ppo.pretrain_coef=0", "data.pretrain=null"],
        ["ppo.kl_coef=0.5", "ppo.gamma=0.9", "ppo.lam=0.7", "ppo.value_clip=0.01", "ppo.clip=0.02"],
        ["ppo.micro_batch_tokens=40", "ppo.minibatches=1"],
        ["ppo.loss_mean=sequence", "ppo.entropy_coef=0.3", "ppo.micro_batch_tokens=40"],
        ["ppo.reward_clip=0.2", "ppo.length_penalty=0.1", "ppo.length_free=4", "ppo.advantage_clip=0.8"],
        ["ppo.gradient_checkpointing=true"],
        ["ppo.fused_adamw=true"],
    ],
    ids=[
        "the report's settings",
        "no pretraining text",
        "tight clips",
        "micro-batches",
        "mean over responses and entropy",
        "reward clip and length penalty",
        "gradient checkpointing",
        "fused AdamW",
    ],
)
def test_a_step_equals_the_equations_applied_to_one_response_at_a_time(setting, overrides, tmp_path):
    batched = start(setting, f"run.dir={tmp_path / 'batched'}", *overrides)
    # plain_step calls backward under another attention than forward, so it must not recompute activations.
    plain_overrides = [*overrides, "ppo.gradient_checkpointing=false", "ppo.fused_adamw=false"]
    plain = start(setting, f"run.dir={tmp_path / 'plain'}", *plain_overrides)
    assert batched[2].responses == plain[2].responses
    ended = [r.ended for r in batched[2].responses]
    assert any(ended)
    assert not all(ended)
    batched_step(*batched, step=2)
    plain_step(*plain)
    assert_same_weights(batched[1].policy, plain[1].policy)
    assert_same_weights(batched[1].value, plain[1].value)
    before = start(setting, f"run.dir={tmp_path / 'before'}", *overrides)
    assert not torch.equal(before[1].policy.lm_head.weight, batched[1].policy.lm_head.weight)


def test_ratio_is_one_and_kl_is_zero_at_the_start(setting, tmp_path):
    assessment, metrics = batched_step(*start(setting, f"run.dir={tmp_path}"), step=2)
    assert metrics["first_ratio_error"] < 1e-5
    assert (assessment.old_logprobs - assessment.ref_logprobs).abs().max() < 1e-6


def test_the_value_model_starts_as_the_reward_model_with_its_offset(setting, tmp_path):
    _, models, rollout, *_ = start(setting, f"run.dir={tmp_path}")
    answer = [*rollout.prompts[0], *rollout.tokens[0][:3], models.value.config.score_token_id]
    with torch.no_grad(), use_attention(models.value, "sdpa"):
        value = models.value(torch.tensor([answer])).logits
    (scores,) = models.score([answer], [len(rollout.prompts[0])], [{}], 10**6).values()
    assert_close(value, scores[:, None])
    assert models.value.config.score_offset == 0.1


def test_a_control_token_inside_a_response_costs_the_penalty(setting, tmp_path):
    """Only the response that contains a control token scores 5 lower than without the penalty."""
    recipe, models, rollout, *_ = start(setting, f"run.dir={tmp_path}", "ppo.reward_normalisation=none")
    ids = control(load_tokenizer(recipe.model.path))
    answers = [[7, 8, ids.im_end], [7, ids.im_start, 9, ids.im_end], [9, 9], [7, ids.endoftext]]
    rollout_of_four = Rollout(rollout.rows[:4], [Response(tokens, tokens[-1] == ids.im_end) for tokens in answers])
    without_penalty = assess_by(recipe, models, rollout_of_four)
    penalised = assess_by(
        recipe_of(setting, "ppo.control_token_penalty=5.0", "ppo.reward_normalisation=none"), models, rollout_of_four
    )
    assert without_penalty.with_control_tokens.tolist() == [False, True, False, False]
    assert_close(without_penalty.scores - penalised.scores, torch.tensor([0.0, 5.0, 0.0, 0.0]))
    assert measure(without_penalty, RewardMix(recipe.reward.parts, "none"))["control_tokens"] == 0.25
    assert_close(without_penalty.scores[:2], without_penalty.raw_scores)


def test_a_response_without_an_end_token_gets_the_penalty_instead_of_a_score(setting, tmp_path):
    recipe, models, rollout, *_ = start(setting, f"run.dir={tmp_path}", "ppo.missing_end_penalty=7.0")
    assessment = assess_by(recipe, models, rollout)
    unfinished = ~rollout.ended
    assert torch.equal(assessment.scores[unfinished], torch.full((int(unfinished.sum()),), -7.0))
    assert len(assessment.raw_scores) == int(rollout.ended.sum())
    assert_close(assessment.scores[~unfinished], assessment.raw_scores - assessment.raw_scores.mean())
