"""PPO's two clipped losses, one value a token; the caller takes means over the global token count."""

import torch


def clipped_policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return -min(rho A, clip(rho, 1 - clip, 1 + clip) A) with rho = exp(logprobs - old_logprobs).

    Schulman et al. 2017, eq. 7. All tensors have one shape, which is the result's. The report states no policy clip
    (3.2.2); 0.2 is our choice.
    """
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return max((V - G)², (clip(V, V_old ± clip) - G)²) / 2; the report clips the value loss at 0.15 (3.2.2)."""
    clipped = values.clamp(old_values - clip, old_values + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
