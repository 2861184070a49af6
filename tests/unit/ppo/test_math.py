"""PPO's mathematics against numbers worked by hand."""

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from ppo.advantages import ScoreNormaliser, gae, penalised_rewards, whiten
from ppo.losses import clipped_policy_loss, clipped_value_loss


def test_score_lands_on_the_last_response_token():
    kl, mask = tensor([[0.1, 0.2, 0.3]]), tensor([[True, True, False]])
    assert_close(penalised_rewards(tensor([2.0]), kl, mask, kl_coef=0.5), tensor([[-0.05, 1.90, 0.0]]))


def test_gae_by_hand():
    rewards, values = tensor([[1.0, 2.0, 3.0]]), tensor([[0.5, 1.0, 1.5]])
    mask = tensor([[True, True, True]])
    # γ = 0.9, λ = 0.5: δ = [1 + 0.9·1 - 0.5, 2 + 0.9·1.5 - 1, 3 - 1.5] = [1.4, 2.35, 1.5]
    # A_3 = 1.5, A_2 = 2.35 + 0.45·1.5 = 3.025, A_1 = 1.4 + 0.45·3.025 = 2.76125
    advantages, returns = gae(rewards, values, mask, gamma=0.9, lam=0.5)
    assert_close(advantages, tensor([[2.76125, 3.025, 1.5]]))
    assert_close(returns, tensor([[3.26125, 4.025, 3.0]]))


def test_gae_ends_at_the_last_response_token():
    rewards, values = tensor([[1.0, 2.0, 99.0]]), tensor([[0.5, 1.0, 99.0]])
    mask = tensor([[True, True, False]])
    # γ = λ = 1: A_2 = 2 - 1 = 1, A_1 = 1 + 1 - 0.5 + 1 = 2.5; values after the end are ignored
    advantages, returns = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    assert_close(advantages, tensor([[2.5, 1.0, 0.0]]))
    assert_close(returns, tensor([[3.0, 2.0, 0.0]]))


def test_returns_use_advantages_before_whitening():
    rewards, mask = tensor([[0.0, 10.0]]), tensor([[True, True]])
    advantages, returns = gae(rewards, torch.zeros(1, 2), mask, gamma=1.0, lam=1.0)
    assert_close(returns, tensor([[10.0, 10.0]]))
    assert_close(whiten(advantages, mask), tensor([[0.0, 0.0]]))


def test_whitening_counts_response_tokens_only():
    advantages = tensor([[1.0, 3.0], [5.0, 1000.0]])
    mask = tensor([[True, True], [True, False]])
    # mean 3, variance (4 + 0 + 4) / 3
    expected = tensor([[-1.2247449, 0.0], [1.2247449, 0.0]])
    assert_close(whiten(advantages, mask), expected)


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected"),
    [(1.0, 2.0, -2.0), (1.5, 2.0, -2.4), (1.5, -2.0, 3.0), (0.5, 2.0, -1.0), (0.5, -2.0, 1.6)],
)
def test_clipped_policy_loss_by_hand(ratio, advantage, expected):
    logprobs, old = tensor([ratio]).log(), tensor([0.0])
    assert_close(clipped_policy_loss(logprobs, old, tensor([advantage]), clip=0.2), tensor([expected]))


def test_the_policy_clip_stops_the_gradient():
    logprobs = tensor([1.5]).log().requires_grad_()
    clipped_policy_loss(logprobs, tensor([0.0]), tensor([2.0]), clip=0.2).sum().backward()
    assert logprobs.grad.item() == 0.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        # V_old = 1, G = 2, clip 0.15. Inside the clip: ½ (1.1 - 2)²
        (1.1, 0.405),
        # beyond it, towards G: max(½ (1.5 - 2)², ½ (1.15 - 2)²) is the clipped loss
        (1.5, 0.36125),
        # beyond it, away from G: max(½ (0.5 - 2)², ½ (0.85 - 2)²) is the unclipped loss
        (0.5, 1.125),
    ],
)
def test_clipped_value_loss_by_hand(value, expected):
    loss = clipped_value_loss(tensor([value]), tensor([1.0]), tensor([2.0]), clip=0.15)
    assert_close(loss, tensor([expected]))


def test_running_mean_includes_the_current_batch():
    normaliser = ScoreNormaliser("mean")
    normaliser.update(tensor([1.0, 3.0]))
    assert_close(normaliser(tensor([1.0, 3.0])), tensor([-1.0, 1.0]))
    normaliser.update(tensor([5.0]))
    assert normaliser.mean == pytest.approx(3.0)
    assert_close(normaliser(tensor([5.0])), tensor([2.0]))


def test_mean_std_uses_the_statistics_of_all_scores_so_far():
    normaliser, everything = ScoreNormaliser("mean_std"), tensor([1.0, 3.0, 5.0, 11.0, -2.0])
    normaliser.update(everything[:2])
    normaliser.update(everything[2:])
    expected = (everything - everything.mean()) / everything.std(correction=0)
    assert_close(normaliser(everything), expected)


def test_an_empty_batch_does_not_change_the_running_mean():
    normaliser = ScoreNormaliser("mean")
    normaliser.update(tensor([2.0]))
    normaliser.update(tensor([]))
    assert (normaliser.count, normaliser.mean) == (1, 2.0)


def test_the_running_mean_survives_saving():
    normaliser, other = ScoreNormaliser("mean_std"), ScoreNormaliser("mean_std")
    normaliser.update(tensor([1.0, 2.0, 4.0]))
    other.load_state_dict(normaliser.state_dict())
    assert torch.equal(normaliser(tensor([7.0])), other(tensor([7.0])))


def test_normalisation_none_does_not_change_scores():
    normaliser = ScoreNormaliser("none")
    normaliser.update(tensor([1.0, 2.0]))
    assert_close(normaliser(tensor([7.0])), tensor([7.0]))
