"""Optional parts of PPO that the report does not use: hand-computed numbers, and each option in a whole run."""

import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from config import RecipeError
from engine.files.jsonl import read
from ppo.advantages import clip_and_shorten, group_advantages
from ppo.kl import KLCoefficient, kl_estimate
from ppo.minibatches import token_weights
from ppo.recipe import Algorithm
from ppo.schedule import learning_rate_factor
from ppo.train import train
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import assert_metrics_close, same, untimed, weights


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.mark.parametrize(
    ("estimator", "expected"), [("k1", [0.5, -0.5]), ("k2", [0.125, 0.125]), ("k3", [0.1065307, 0.1487213])]
)
def test_kl_estimates_by_hand(estimator, expected):
    # exp(-½) - 1 + ½ = 0.6065307 - ½, exp(½) - 1 - ½ = 1.6487213 - 1½
    assert_close(kl_estimate(tensor([-1.0, -2.0]), tensor([-1.5, -1.5]), estimator), tensor(expected))


def test_k1_and_k3_are_unbiased():
    policy, reference = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.4, 0.4, 0.2])
    exact = (policy * (policy / reference).log()).sum()
    for estimator in ("k1", "k3"):
        assert_close((policy * kl_estimate(policy.log(), reference.log(), estimator)).sum(), exact)


def test_the_kl_coefficient_follows_its_target():
    coefficient = KLCoefficient(0.1, target=6.0, horizon=100)
    coefficient.update(6.6, responses=10)  # 10 % too far: β (1 + 0.1 · 10 / 100)
    assert coefficient.value == pytest.approx(0.101)
    coefficient.update(60.0, responses=10)  # the error counts as 0.2 at most
    assert coefficient.value == pytest.approx(0.101 * 1.02)
    coefficient.update(0.0, responses=50)
    assert coefficient.value == pytest.approx(0.101 * 1.02 * 0.9)
    other = KLCoefficient(0.5, target=6.0, horizon=100)
    other.load_state_dict(coefficient.state_dict())
    assert other.value == coefficient.value


def test_without_a_target_the_kl_coefficient_is_constant():
    coefficient = KLCoefficient(0.1, target=None, horizon=100)
    coefficient.update(60.0, responses=10)
    assert coefficient.value == 0.1


def test_group_advantages_by_hand():
    rewards = tensor([[0.0, 1.0], [3.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    mask = tensor([[True, True], [True, False], [True, True], [True, False]])
    # R = 1, 3 | 2, -2: the difference from the other response's R
    expected = tensor([[-2.0, -2.0], [2.0, 0.0], [4.0, 4.0], [-4.0, 0.0]])
    advantages, returns = group_advantages(rewards, mask, 2, "rloo")
    assert_close(advantages, expected)
    assert_close(returns, tensor([[1.0, 1.0], [3.0, 0.0], [2.0, 2.0], [-2.0, 0.0]]))
    # deviations √2 and √8, means 2 and 0
    a, b = 1 / (2**0.5 + 1e-4), 2 / (8**0.5 + 1e-4)
    assert_close(group_advantages(rewards, mask, 2, "grpo")[0], tensor([[-a, -a], [a, 0.0], [b, b], [-b, 0.0]]))


def test_rloo_with_three_responses_by_hand():
    rewards, mask = tensor([[1.0], [2.0], [6.0]]), torch.ones(3, 1, dtype=torch.bool)
    # 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2
    assert_close(group_advantages(rewards, mask, 3, "rloo")[0], tensor([[-3.0], [-1.5], [4.5]]))


def test_score_clipping_and_length_penalty_by_hand():
    scores = clip_and_shorten(tensor([5.0, -3.0, 1.0]), tensor([3, 4, 7]), clip=2.0, length_penalty=0.5, length_free=3)
    assert_close(scores, tensor([2.0, -2.5, -1.0]))
    off = Algorithm(steps=1)
    scores = clip_and_shorten(
        tensor([5.0, -3.0]), tensor([3, 400]), off.reward_clip, off.length_penalty, off.length_free
    )
    assert_close(scores, tensor([5.0, -3.0]))


def test_token_weights_turn_a_mean_over_tokens_into_one_over_responses():
    mask = tensor([[True, True, True], [True, False, False]])
    weights = token_weights(mask, tokens=4, responses=2)
    # 4 / (2 · 3) and 4 / (2 · 1)
    assert_close(weights, tensor([[2 / 3] * 3, [2.0] * 3]))
    loss = tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0]])
    assert_close((weights * loss)[mask].sum() / 4, tensor((2.0 + 10.0) / 2))


def test_learning_rate_schedules_by_hand():
    def factors(kind, warmup):
        return [learning_rate_factor(kind, step, 6, warmup) for step in range(1, 7)]

    assert factors("constant", 0) == [1.0] * 6
    assert factors("constant", 4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert factors("linear", 2) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    expected = [0.5, 1.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    assert factors("cosine", 2) == pytest.approx(expected)


OPTIONS = {
    "adaptive KL": ["ppo.kl_target=0.01", "ppo.kl_horizon=20"],
    "k3 as penalty": ["ppo.kl_estimator=k3", "ppo.kl_coef=2.0"],
    "reward clip": ["ppo.reward_clip=0.1"],
    "advantage clip": ["ppo.advantage_clip=0.5"],
    "entropy": ["ppo.entropy_coef=0.5"],
    "sequence mean": ["ppo.loss_mean=sequence"],
    "cosine": ["ppo.lr_scheduler_type=cosine", "ppo.warmup_steps=2"],
    "length": ["ppo.length_penalty=0.3"],
    "rloo": ["ppo.advantage=rloo", "ppo.value_warmup_steps=0"],
    "grpo": ["ppo.advantage=grpo", "ppo.value_warmup_steps=0", "ppo.whiten_advantages=false"],
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_changes_the_policy_and_resumes_bit_for_bit(setting, tmp_path, option):
    """Smaller micro-batches change the metrics by rounding only."""
    overrides = [*OPTIONS[option], "run.save_steps=1", "run.keep_checkpoints=9"]
    one, plain = tmp_path / "one", tmp_path / "plain"
    train(recipe_of(setting, f"run.dir={one}", *overrides))
    train(recipe_of(setting, f"run.dir={plain}", *[o for o in overrides if o.startswith(("run", "ppo.value"))]))
    assert not same(weights(one), weights(plain))
    assert (one / "value").exists() == (option not in ("rloo", "grpo"))

    small = tmp_path / "small"
    train(recipe_of(setting, f"run.dir={small}", *overrides, "ppo.micro_batch_tokens=30"))
    assert_metrics_close(one, small)

    expected, final = untimed(one), weights(one)
    for name in ("finished.json", "checkpoint-3/COMPLETE", "checkpoint-2/COMPLETE"):
        (one / name).unlink()
    train(recipe_of(setting, f"run.dir={one}", *overrides))
    assert untimed(one) == expected
    assert same(weights(one), final)


def test_policy_updates_stop_at_target_approx_kl_and_value_updates_continue(setting, tmp_path):
    run = ["ppo.value_warmup_steps=1", "ppo.steps=2", "ppo.epochs=3"]
    train(recipe_of(setting, f"run.dir={tmp_path / 'free'}", *run))
    train(recipe_of(setting, f"run.dir={tmp_path / 'held'}", *run, "ppo.target_approx_kl=1e-4"))
    unlimited, limited = read(tmp_path / "free" / "metrics.jsonl"), read(tmp_path / "held" / "metrics.jsonl")
    assert [row["policy_updates"] for row in unlimited] == [0, 6]
    # At the first minibatch the policy is π_old; at the second it exceeds the target.
    assert [row["policy_updates"] for row in limited] == [0, 1]
    assert not same(weights(tmp_path / "held"), weights(setting.parent, "policy"))
    assert unlimited[1]["value_loss"] == limited[1]["value_loss"]  # the value model continues


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["ppo.advantage=rloo", "ppo.responses_per_query=1", "ppo.value_warmup_steps=0"],
            "ppo.advantage=rloo compares the responses to a query, but there is only one; "
            "raise ppo.responses_per_query",
        ),
        (
            ["ppo.advantage=grpo", "ppo.value_warmup_steps=1"],
            "ppo.advantage=grpo has no value model to warm up; set ppo.value_warmup_steps=0",
        ),
        (
            ["ppo.kl_target=6", "ppo.kl_horizon=1"],
            "ppo.kl_horizon is 1 and a step has 8 responses, after which an adaptive ppo.kl_coef could be 0 or less; "
            "raise ppo.kl_horizon to 8 or more",
        ),
    ],
)
def test_contradictory_keys_are_refused(setting, overrides, message):
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, *overrides)
    assert str(error.value) == message


def test_the_shortest_horizon_keeps_the_kl_coefficient_above_zero(setting):
    """8 responses per step: with a horizon of 2 a step lowers it by 0.2 · 8 / 2 = 80 %, with the advised 8 by 20 %."""
    for horizon, factor in ((2, 0.2), (8, 0.8)):
        recipe = recipe_of(setting, "ppo.kl_target=6", f"ppo.kl_horizon={horizon}")
        coefficient = KLCoefficient(recipe.ppo.kl_coef, recipe.ppo.kl_target, recipe.ppo.kl_horizon)
        for _ in range(50):
            coefficient.update(0.0, 8)
        assert coefficient.value == pytest.approx(0.04 * factor**50)
        assert coefficient.value > 0
    assert recipe_of(setting, "ppo.kl_horizon=1").ppo.kl_target is None


def test_the_kl_coefficient_is_constant_during_value_warmup(setting, tmp_path):
    """In three value-only steps a KL of 0 does not lower it; in the fourth step it does."""
    overrides = ["ppo.kl_target=1", "ppo.kl_horizon=80", "ppo.value_warmup_steps=3", "ppo.steps=5"]
    train(recipe_of(setting, f"run.dir={tmp_path}", *overrides))
    coefficients = [row["kl_coef"] for row in read(tmp_path / "metrics.jsonl")]
    # 8 responses per step: 1 - 0.2 · 8 / 80
    assert coefficients == pytest.approx([0.04, 0.04, 0.04, 0.04, 0.04 * 0.98])
