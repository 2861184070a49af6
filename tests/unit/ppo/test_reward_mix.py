"""Several rewards as one number: normalised each by itself, weighted, added; against sums on paper."""

import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from config.scoring import Scoring
from ppo.advantages import ScoreNormaliser
from ppo.reward_mix import RewardMix
from ppo.reward_section import Part

FIRST = {"a": tensor([1.0, 3.0]), "b": tensor([300.0, 100.0])}
SECOND = {"a": tensor([5.0]), "b": tensor([500.0])}
# (5 - 3) / √(8/3): the running mean of 1, 3 and 5 is 3, and their squared deviations from it sum to 8.
SECOND_BY_ITSELF = math.sqrt(1.5)


def mix_of(kind, **weights):
    scoring = Scoring(path="x")
    return RewardMix([Part(name, f"reward.mix.{name}", scoring, weight) for name, weight in weights.items()], kind)


def only_reward(kind):
    return RewardMix([Part("", "reward", Scoring(path="x"), 1.0)], kind)


@pytest.mark.parametrize(
    ("kind", "first", "second", "score"),
    [
        # a: (1 - 2) / 1 and (3 - 2) / 1; b: (300 - 200) / 100 and (100 - 200) / 100, by half.
        # The second step in the units of the first: (5 - 2) / 1 + ½ (500 - 200) / 100.
        ("mean_std", [-0.5, 0.5], [1.5 * SECOND_BY_ITSELF], 4.5),
        # The running means of the second step are 3 and 300.
        ("mean", [49.0, -49.0], [2 + 0.5 * 200], 3 + 0.5 * 300),
        ("none", [1 + 150.0, 3 + 50.0], [5 + 250.0], 255.0),
    ],
)
def test_each_part_is_normalised_by_itself_then_weighted(kind, first, second, score):
    mix = mix_of(kind, a=1.0, b=0.5)
    mix.update(FIRST)
    assert_close(mix.normalised(FIRST), tensor(first))
    assert_close(mix.comparable(FIRST), tensor(first))
    mix.update(SECOND)
    assert_close(mix.normalised(SECOND), tensor(second))
    assert_close(mix.comparable(SECOND), tensor([score]))


def test_metrics_of_a_step_by_hand():
    mix = mix_of("mean_std", a=1.0, b=0.5)
    mix.update(FIRST)
    mix.update(SECOND)
    assert mix.metrics(SECOND) == pytest.approx({
        "score_a": 5.0, "normalised_score_a": SECOND_BY_ITSELF, "running_mean_a": 3.0,
        "score_b": 500.0, "normalised_score_b": SECOND_BY_ITSELF, "running_mean_b": 300.0,
    })  # fmt: skip


def test_the_scale_of_a_part_means_nothing_under_mean_std():
    plain, moved = (mix_of("mean_std", a=1.0, b=0.5) for _ in range(2))
    for step in (FIRST, SECOND):
        other = {**step, "b": 1000 * step["b"] - 7}
        plain.update(step)
        moved.update(other)
        assert_close(moved.normalised(other), plain.normalised(step))
        assert_close(moved.comparable(other), plain.comparable(step))


@pytest.mark.parametrize("kind", ["mean", "mean_std", "none"])
def test_one_reward_is_as_it_was(kind):
    """Bit for bit, with the state and the metric it had."""
    mix, normaliser = only_reward(kind), ScoreNormaliser(kind)
    for scores in (tensor([0.1, 0.7, -0.3]), tensor([1.9])):
        mix.update({"": scores})
        normaliser.update(scores)
        assert torch.equal(mix.normalised({"": scores}), normaliser(scores))
        assert torch.equal(mix.comparable({"": scores}), scores)
        assert mix.metrics({"": scores}) == {"running_mean": normaliser.mean}
        assert {name: held.state_dict() for name, held in mix.state.items()} == {
            "score_normaliser": normaliser.state_dict()
        }


def test_the_first_step_is_kept_with_the_state():
    mix, other = mix_of("mean_std", a=1.0, b=0.5), mix_of("mean_std", a=1.0, b=0.5)
    mix.update(FIRST)
    assert sorted(mix.state) == ["first_step_a", "first_step_b", "score_normaliser_a", "score_normaliser_b"]
    for name, held in mix.state.items():
        other.state[name].load_state_dict(held.state_dict())
    for each in (mix, other):
        each.update(SECOND)
    assert torch.equal(mix.normalised(SECOND), other.normalised(SECOND))
    assert torch.equal(mix.comparable(SECOND), other.comparable(SECOND))


@pytest.mark.parametrize("kind", ["mean", "mean_std"])
def test_steps_without_a_finished_response_are_not_the_first(kind):
    mix, nothing = mix_of(kind, a=1.0, b=1.0), {"a": tensor([]), "b": tensor([])}
    mix.update(nothing)
    assert mix.comparable(nothing).shape == (0,)
    assert mix.comparable(FIRST).isnan().all()  # held-out prompts may have finished ones
    mix.update(FIRST)
    assert mix.comparable(FIRST).isfinite().all()


@pytest.mark.parametrize("equal", [3.0, 0.0, 0.1])
def test_equal_scores_in_the_first_step_leave_the_part_in_its_own_units(equal):
    """0.1 three times has a deviation of 1e-17 in floating point."""
    mix = mix_of("mean_std", a=1.0, b=1.0)
    mix.update({"a": tensor([1.0, 2.0, 3.0]), "b": torch.full((3,), equal)})
    scores = {"a": tensor([2.0]), "b": tensor([equal + 2])}
    assert_close(mix.comparable(scores), tensor([2.0]))
