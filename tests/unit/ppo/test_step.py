"""One whole PPO step against a plain rewriting of it: no packing, no chunks, no masks, a loop over responses."""

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


def our_step(recipe, models, rollout, pretrain, accelerator, step):
    assessment = assess_by(recipe, models, rollout)
    return assessment, updater_of(recipe, models, pretrain, accelerator).update(rollout, assessment, step)


def plain_logits(model, prompt, response):
    """Logits of the response tokens; sampled at temperature 1."""
    with use_attention(model, "sdpa"):
        return model(torch.tensor([[*prompt, *response]]), use_cache=False).logits[0, len(prompt) - 1 : -1]


def plain_logprobs(model, prompt, response):
    return -F.cross_entropy(plain_logits(model, prompt, response), torch.tensor(response), reduction="none")


def plain_values(model, prompt, response):
    with use_attention(model, "sdpa"):
        hidden = model.model(torch.tensor([[*prompt, *response]]), use_cache=False).last_hidden_state[0]
    return model.score(hidden)[len(prompt) - 1 : -1, 0] - model.config.score_offset


def plain_step(recipe, models, rollout, pretrain, accelerator):
    """The equations of ppo/train.py, a response at a time."""
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
        values, gain, mine = [*v.tolist(), 0.0], 0.0, []
        for t in reversed(range(len(rewards))):
            gain = rewards[t] + ppo.gamma * values[t + 1] - values[t] + ppo.gamma * ppo.lam * gain
            mine.insert(0, gain)
        advantages.append(torch.tensor(mine))
        returns.append(torch.tensor(mine) + v)
    everything = torch.cat(advantages)
    bound = ppo.advantage_clip or math.inf
    white = [((a - everything.mean()) / everything.std(correction=0)).clamp(-bound, bound) for a in advantages]

    for rows in minibatch_rows(len(pairs), ppo, recipe.run.seed, step=2):
        tokens = sum(len(pairs[r][1]) for r in rows)
        policy_loss, value_loss = torch.zeros(()), torch.zeros(())
        for r in rows:
            count = tokens if ppo.loss_mean == "token" else len(pairs[r][1]) * len(rows)
            ratio = (plain_logprobs(models.policy, *pairs[r]) - old_logprobs[r]).exp()
            gain = torch.min(ratio * white[r], ratio.clamp(1 - ppo.clip, 1 + ppo.clip) * white[r])
            policy_loss = policy_loss - gain.sum() / count
            if ppo.entropy_coef:
                entropy = Categorical(logits=plain_logits(models.policy, *pairs[r])).entropy()
                policy_loss = policy_loss - ppo.entropy_coef * entropy.sum() / count
            v = plain_values(models.value, *pairs[r])
            near = old_values[r] + (v - old_values[r]).clamp(-ppo.value_clip, ppo.value_clip)
            worst = torch.max((v - returns[r]) ** 2, (near - returns[r]) ** 2)
            value_loss = value_loss + 0.5 * worst.sum() / count
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
        "the paper's",
        "no pretraining text",
        "tight clips",
        "micro-batches",
        "a mean over responses, and entropy",
        "clipped, and shorter",
        "gradient checkpointing",
        "fused",
    ],
)
def test_a_step_is_what_the_equations_say(setting, overrides, tmp_path):
    ours = start(setting, f"run.dir={tmp_path / 'ours'}", *overrides)
    # The rewriting goes back under another attention than it went forward: nothing may be recomputed there.
    plain_overrides = [*overrides, "ppo.gradient_checkpointing=false", "ppo.fused_adamw=false"]
    plain = start(setting, f"run.dir={tmp_path / 'plain'}", *plain_overrides)
    assert ours[2].responses == plain[2].responses
    ended = [r.ended for r in ours[2].responses]
    assert any(ended)
    assert not all(ended)
    our_step(*ours, step=2)
    plain_step(*plain)
    assert_same_weights(ours[1].policy, plain[1].policy)
    assert_same_weights(ours[1].value, plain[1].value)
    before = start(setting, f"run.dir={tmp_path / 'before'}", *overrides)
    assert not torch.equal(before[1].policy.lm_head.weight, ours[1].policy.lm_head.weight)


def test_ratio_is_one_and_kl_is_zero_at_the_start(setting, tmp_path):
    assessment, metrics = our_step(*start(setting, f"run.dir={tmp_path}"), step=2)
    assert metrics["first_ratio_error"] < 1e-5
    assert (assessment.old_logprobs - assessment.ref_logprobs).abs().max() < 1e-6


def test_value_starts_as_the_reward_model_offset_included(setting, tmp_path):
    _, models, rollout, *_ = start(setting, f"run.dir={tmp_path}")
    answer = [*rollout.prompts[0], *rollout.tokens[0][:3], models.value.config.score_token_id]
    with torch.no_grad(), use_attention(models.value, "sdpa"):
        value = models.value(torch.tensor([answer])).logits
    (scores,) = models.score([answer], [len(rollout.prompts[0])], [{}], 10**6).values()
    assert_close(value, scores[:, None])
    assert models.value.config.score_offset == 0.1


def test_a_control_token_inside_an_answer_costs_the_penalty(setting, tmp_path):
    """One of four answers writes a turn of its own; its score, and no other, is 5 lower than without the penalty."""
    recipe, models, rollout, *_ = start(setting, f"run.dir={tmp_path}", "ppo.reward_normalisation=none")
    ids = control(load_tokenizer(recipe.model.path))
    answers = [[7, 8, ids.im_end], [7, ids.im_start, 9, ids.im_end], [9, 9], [7, ids.endoftext]]
    made = Rollout(rollout.rows[:4], [Response(tokens, tokens[-1] == ids.im_end) for tokens in answers])
    free = assess_by(recipe, models, made)
    penalised = assess_by(
        recipe_of(setting, "ppo.control_token_penalty=5.0", "ppo.reward_normalisation=none"), models, made
    )
    assert free.with_control_tokens.tolist() == [False, True, False, False]
    assert_close(free.scores - penalised.scores, torch.tensor([0.0, 5.0, 0.0, 0.0]))
    assert measure(free, RewardMix(recipe.reward.parts, "none"))["control_tokens"] == 0.25
    assert_close(free.scores[:2], free.raw_scores)


def test_an_answer_without_end_costs_the_penalty_and_no_score(setting, tmp_path):
    recipe, models, rollout, *_ = start(setting, f"run.dir={tmp_path}", "ppo.missing_end_penalty=7.0")
    assessment = assess_by(recipe, models, rollout)
    cut = ~rollout.ended
    assert torch.equal(assessment.scores[cut], torch.full((int(cut.sum()),), -7.0))
    assert len(assessment.raw_scores) == int(rollout.ended.sum())
    assert_close(assessment.scores[~cut], assessment.raw_scores - assessment.raw_scores.mean())
