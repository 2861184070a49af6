"""The KL penalty: estimators of the divergence at a token, and a coefficient that may adapt to a target."""

import torch

from ppo.choices import MAX_KL_ERROR, KlEstimator


def kl_estimate(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, estimator: KlEstimator) -> torch.Tensor:
    """Estimate KL(π, π_ref) from one sample a token, of any shape (Schulman 2020, "Approximating KL divergence").

    With d = log π − log π_ref: k1 = d, unbiased, of either sign; k2 = d²/2, biased, never negative;
    k3 = exp(−d) − 1 + d, unbiased, never negative.
    """
    d = logprobs - ref_logprobs
    if estimator == "k1":
        return d
    return d**2 / 2 if estimator == "k2" else (-d).expm1() + d


class KLCoefficient:
    """β of the penalty: constant, or adapted to a target in nats a response (Ziegler et al. 2019, 2.2).

    After n responses with a mean divergence of KL: β ← β (1 + clip(KL / target − 1, ±0.2) n / horizon). The recipe
    refuses horizons so short that β could reach 0.
    """

    def __init__(self, start: float, target: float | None, horizon: int):
        self.value, self.target, self.horizon = start, target, horizon

    def update(self, kl: float, responses: float) -> None:
        if self.target is not None:
            error = min(max(kl / self.target - 1, -MAX_KL_ERROR), MAX_KL_ERROR)
            self.value *= 1 + error * responses / self.horizon

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["value"]
