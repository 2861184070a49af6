"""From scores to advantages: KL-penalised rewards, GAE, group baselines, whitening, score normalisation.

Shapes: batch is the number of responses, time the length in tokens of the longest one. `mask`, (batch, time) bool, is
true at response tokens (the end token included), which start at column 0 (right padding). Values outside the mask are
ignored, and results are 0 there. Every response has at least one token.
"""

import torch

from ppo.choices import Advantage


def clip_and_shorten(
    scores: torch.Tensor, lengths: torch.Tensor, clip: float | None, length_penalty: float, length_free: int
) -> torch.Tensor:
    """Clip scores to ±clip, then subtract a penalty for length: clip(s) - length_penalty · max(T - length_free, 0).

    Args:
        scores: (batch,), normalised.
        lengths: (batch,) T, response tokens.
        clip: largest absolute score; None clips nothing.
        length_penalty: score units per token.
        length_free: tokens without a penalty.

    Returns (batch,). Neither term is in the report; both are off by default.
    """
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    return scores - length_penalty * (lengths - length_free).clamp(min=0)


def penalised_rewards(scores: torch.Tensor, kl: torch.Tensor, mask: torch.Tensor, kl_coef: float) -> torch.Tensor:
    """Return the rewards R_t = -kl_coef · kl_t + 1[t = T] · score, (batch, time).

    Args:
        scores: (batch,) one score per response, added at its last token T.
        kl: (batch, time) an estimate of the KL divergence at each token, in nats (`kl_estimate`).
        mask: (batch, time).
        kl_coef: β, score units per nat (report, 3.2.2: 0.04).

    The report does not state whether the penalty is per token or per response. Per token is our choice, as in Ouyang et
    al. 2022, 3.5.
    """
    rewards = torch.where(mask, -kl_coef * kl, 0.0)
    rewards[torch.arange(len(mask)), mask.sum(1) - 1] += scores
    return rewards


def gae(
    rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16).

        δ_t = R_t + γ V_{t+1} - V_t        A_t = Σ_l (γλ)^l δ_{t+l}        G_t = A_t + V_t

    Args:
        rewards: (batch, time) R.
        values: (batch, time) V_t, the value of the state before token t is sampled; V after the last token is 0.
        mask: (batch, time).
        gamma, lam: γ and λ. The report states neither.

    Returns the advantages A and the returns G, both (batch, time), in score units.
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
    """Return advantages against the other responses to the same query, and the returns; no value model is needed.

    With R the sum of a response's rewards, KL penalty included, and K responses per query:

        rloo    A = R - mean of R over the query's other responses       (Ahmadian et al. 2024)
        grpo    A = (R - mean R) / (std R + 1e-4) over the query's K     (Shao et al. 2024, 4.1.2; std with K - 1)

    Shao et al. add the KL penalty to the loss instead; here it is part of R for both methods.

    Args:
        rewards: (batch, time); the K responses to a query are adjacent rows, so batch = queries · K.
        mask: (batch, time).
        responses: K, at least 2.
        kind: "rloo" or "grpo".

    Returns A and R, both (batch, time), constant over the tokens of a response.
    """
    total = rewards.sum(1).view(-1, responses)
    mean = total.mean(1, keepdim=True)
    if kind == "rloo":
        gained = (total - mean) * responses / (responses - 1)
    else:
        gained = (total - mean) / (total.std(1, keepdim=True) + 1e-4)
    return torch.where(mask, gained.view(-1, 1), 0.0), torch.where(mask, total.view(-1, 1), 0.0)


def whiten(advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Scale (batch, time) advantages to mean 0 and variance 1 over all response tokens; 1e-8 is added to the variance.

    Not in the report. Moments are computed in float64; the result has the input's dtype.
    """
    inside = advantages[mask].double()
    mean, variance = inside.mean(), inside.var(correction=0)
    whitened = (advantages - mean) * torch.rsqrt(variance + 1e-8)
    return torch.where(mask, whitened, 0.0).to(advantages.dtype)


class ScoreNormaliser:
    """Normalise scores by statistics over all scores so far, the current batch included (report, 3.2.2).

    `kind` is "mean" (subtract the running mean, the report's way), "mean_std" (also divide by the running standard
    deviation; the report does not state whether it does) or "none" (return scores unchanged). Only finished responses
    have a score, so only they are counted.
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.count, self.mean, self.squares = 0.0, 0.0, 0.0

    def update(self, scores: torch.Tensor) -> None:
        """Add (n,) raw scores, n may be 0, to the running statistics (Chan et al. 1983, eq. 2.1)."""
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
