"""From scores to advantages: penalised rewards, GAE, baselines of a query's group, whitening, the running mean.

Tensors are (batch, time), a row a response; `mask` is true at response tokens, the end token included, and they stand
first in their row. Values outside the mask are ignored and come out as 0.
"""

import torch

from ppo.choices import Advantage


def clip_and_shorten(
    scores: torch.Tensor, lengths: torch.Tensor, clip: float | None, length_penalty: float, length_free: int
) -> torch.Tensor:
    """Clip scores to ±clip, then take off `length_penalty` for each token beyond `length_free`; all (batch,)."""
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    return scores - length_penalty * (lengths - length_free).clamp(min=0)


def penalised_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """Return R_t = -kl_coef kl_t, plus the (batch,) score at the last response token.

    kl is an estimate per token, (batch, time). The report states the coefficient, 0.04 (3.2.2), not where the penalty
    falls; per token, with the plain estimator log π_old - log π_ref, is our choice.
    """
    rewards = torch.where(mask, -kl_coef * kl, 0.0)
    rewards[torch.arange(len(mask)), mask.sum(1) - 1] += scores
    return rewards


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return generalised advantage estimates A and the returns A + V (Schulman et al. 2016, eq. 16).

    values[:, t] is V of the state in which token t was chosen; V after the last token is 0. The report states neither γ
    nor λ.
    """
    values = torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(running)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * running, 0.0)
        following = values[:, t]
        advantages[:, t] = running
    return advantages, torch.where(mask, advantages + values, 0.0)


def group_advantages(
    rewards: torch.Tensor, mask: torch.Tensor, responses: int, kind: Advantage
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return advantages over the query's other responses and the returns R, without a value model.

    Both are the same at each token of a response. A query's `responses` stand side by side; R is the sum of a
    response's rewards, KL penalty included. `rloo`: R minus the mean of the others (Ahmadian et al. 2024). `grpo`:
    (R - mean) / (deviation + 1e-4) of all, the deviation with n - 1 (Shao et al. 2024; there the penalty is a loss of
    its own, here it is part of R).
    """
    total = rewards.sum(1).view(-1, responses)
    mean = total.mean(1, keepdim=True)
    if kind == "rloo":
        gained = (total - mean) * responses / (responses - 1)
    else:
        gained = (total - mean) / (total.std(1, keepdim=True) + 1e-4)
    return torch.where(mask, gained.view(-1, 1), 0.0), torch.where(mask, total.view(-1, 1), 0.0)


def whiten(advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scale advantages to mean 0 and variance 1 over all response tokens."""
    inside = advantages[mask].double()
    mean, variance = inside.mean(), inside.var(correction=0)
    whitened = (advantages - mean) * torch.rsqrt(variance + 1e-8)
    return torch.where(mask, whitened, 0.0).to(advantages.dtype)


class ScoreNormaliser:
    """Normalise scores by their running mean (report, 3.2.2), the current batch included.

    The report does not state whether it also divides by a running deviation; `mean_std` does, `none` leaves scores as
    they are. Only finished responses have a score, so only these count.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    def update(self, scores: torch.Tensor) -> None:
        """Add a batch of scores, (n,), merging means and squared deviations (Chan et al. 1983, eq. 2.1)."""
        count, scores = len(scores), scores.double()
        if count == 0:
            return
        mean = float(scores.mean())
        difference, total = mean - self.mean, self.count + count
        self.squares += float(((scores - mean) ** 2).sum()) + difference**2 * self.count * count / total
        self.mean += difference * count / total
        self.count = total

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        if self.kind == "none" or self.count == 0:
            return scores
        centred = scores - self.mean
        return centred / ((self.squares / self.count) ** 0.5 + 1e-8) if self.kind == "mean_std" else centred

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
