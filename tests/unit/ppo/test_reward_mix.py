"""The reward mix: parts are normalised separately, weighted and added; against numbers worked by hand."""

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
SECOND_NORMALISED = math.sqrt(1.5)


def mix_of(kind, **weights):
    scoring = Scoring(path="x")
    return RewardMix([Part(name, f"reward.mix.{name}", scoring, weight) for name, weight in weights.items()], kind)


def only_reward(kind):
    return RewardMix([Part("", "reward", Scoring(path="x"), 1.0)], kind)


@pytest.mark.parametrize(
    ("kind", "first", "second", "score"),
    [
        # a: (1 - 2) / 1 and (3 - 2) / 1; b: (300 - 200) / 100 and (100 - 200) / 100, with weight ½.
        # The second step with the statistics of the first: (5 - 2) / 1 + ½ (500 - 200) / 100.
        ("mean_std", [-0.5, 0.5], [1.5 * SECOND_NORMALISED], 4.5),
        # The running means of the second step are 3 and 300.
        ("mean", [49.0, -49.0], [2 + 0.5 * 200], 3 + 0.5 * 300),
        ("none", [1 + 150.0, 3 + 50.0], [5 + 250.0], 255.0),
    ],
)
def test_each_part_is_normalised_separately_then_weighted(kind, first, second, score):
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
        "score_a": 5.0, "normalised_score_a": SECOND_NORMALISED, "running_mean_a": 3.0,
        "score_b": 500.0, "normalised_score_b": SECOND_NORMALISED, "running_mean_b": 300.0,
    })  # fmt: skip


def test_the_scale_of_a_part_does_not_matter_under_mean_std():
    plain, rescaled = (mix_of("mean_std", a=1.0, b=0.5) for _ in range(2))
    for step in (FIRST, SECOND):
        other = {**step, "b": 1000 * step["b"] - 7}
        plain.update(step)
        rescaled.update(other)
        assert_close(rescaled.normalised(other), plain.normalised(step))
        assert_close(rescaled.comparable(other), plain.comparable(step))


@pytest.mark.parametrize("kind", ["mean", "mean_std", "none"])
def test_a_mix_of_one_reward_equals_the_score_normaliser(kind):
    """Scores are bit-identical, and state and metric have the names of a single reward."""
    mix, normaliser = only_reward(kind), ScoreNormaliser(kind)
    for scores in (tensor([0.1, 0.7, -0.3]), tensor([1.9])):
        mix.update({"": scores})
        normaliser.update(scores)
        assert torch.equal(mix.normalised({"": scores}), normaliser(scores))
        assert torch.equal(mix.comparable({"": scores}), scores)
        assert mix.metrics({"": scores}) == {"running_mean": normaliser.mean}
        assert {name: state.state_dict() for name, state in mix.state.items()} == {
            "score_normaliser": normaliser.state_dict()
        }


def test_the_statistics_of_the_first_step_are_saved_and_restored():
    mix, other = mix_of("mean_std", a=1.0, b=0.5), mix_of("mean_std", a=1.0, b=0.5)
    mix.update(FIRST)
    assert sorted(mix.state) == ["first_step_a", "first_step_b", "score_normaliser_a", "score_normaliser_b"]
    for name, state in mix.state.items():
        other.state[name].load_state_dict(state.state_dict())
    for each in (mix, other):
        each.update(SECOND)
    assert torch.equal(mix.normalised(SECOND), other.normalised(SECOND))
    assert torch.equal(mix.comparable(SECOND), other.comparable(SECOND))


@pytest.mark.parametrize("kind", ["mean", "mean_std"])
def test_a_step_without_finished_responses_does_not_count_as_the_first(kind):
    mix, empty = mix_of(kind, a=1.0, b=1.0), {"a": tensor([]), "b": tensor([])}
    mix.update(empty)
    assert mix.comparable(empty).shape == (0,)
    assert mix.comparable(FIRST).isnan().all()  # held-out responses may finish in such a step
    mix.update(FIRST)
    assert mix.comparable(FIRST).isfinite().all()


@pytest.mark.parametrize("equal", [3.0, 0.0, 0.1])
def test_a_part_with_equal_scores_in_the_first_step_is_not_rescaled(equal):
    """The standard deviation of three times 0.1 is 1e-17 in floating point."""
    mix = mix_of("mean_std", a=1.0, b=1.0)
    mix.update({"a": tensor([1.0, 2.0, 3.0]), "b": torch.full((3,), equal)})
    scores = {"a": tensor([2.0]), "b": tensor([equal + 2])}
    assert_close(mix.comparable(scores), tensor([2.0]))
