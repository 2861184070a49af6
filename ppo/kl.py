"""The KL penalty: per-token estimators of the divergence, and its coefficient, constant or adaptive."""

import torch

from ppo.choices import MAX_KL_ERROR, KlEstimator


def kl_estimate(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, estimator: KlEstimator) -> torch.Tensor:
    """Estimate KL(π ‖ π_ref) at each token, in nats, from the sampled token alone (Schulman 2020).

    With d = log π - log π_ref:

        k1 = d                  unbiased, of either sign
        k2 = d² / 2             biased, never negative
        k3 = exp(-d) - 1 + d    unbiased, never negative

    `logprobs` and `ref_logprobs` have the same shape, usually (batch, time), which is also the result's. Source:
    "Approximating KL divergence", http://joschu.net/blog/kl-approx.html.
    """
    d = logprobs - ref_logprobs
    if estimator == "k1":
        return d
    return d**2 / 2 if estimator == "k2" else (-d).expm1() + d


class KLCoefficient:
    """β, the weight of the KL penalty: constant, or adapted towards a target KL (Ziegler et al. 2019, 2.2).

        β ← β (1 + clip(KL / target - 1, ±0.2) · n / horizon)

    KL is the mean over n responses, in nats per response, like `target` (None keeps β constant). `horizon` is in
    responses; the recipe refuses one so short that β could reach 0.
    """

    def __init__(self, start: float, target: float | None, horizon: int):
        self.value, self.target, self.horizon = start, target, horizon

    def update(self, kl: float, responses: float) -> None:
        """Adapt β after a step of `responses` responses whose mean KL is `kl` nats per response."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -MAX_KL_ERROR), MAX_KL_ERROR)
            self.value *= 1 + error * responses / self.horizon

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["value"]
