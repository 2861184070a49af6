"""PPO's clipped policy and value losses, per token; the caller averages over the tokens of all ranks.

Shapes: tokens are the response tokens of a micro-batch. All tensors of a function have the same shape, (tokens,) in the
updates, which is also the result's.
"""

import torch


def clipped_policy_loss(
    logprobs: torch.Tensor, old_logprobs: torch.Tensor, advantages: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return the clipped surrogate loss -min(ρ A, clip(ρ, 1 - ε, 1 + ε) A) (Schulman et al. 2017, eq. 7).

    Args:
        logprobs: log π_θ(y_t) in nats, with gradient.
        old_logprobs: log π_old(y_t) in nats; ρ = exp(logprobs - old_logprobs).
        advantages: A.
        clip: ε. The report (3.2.2) does not state it; the default of 0.2 is our choice.
    """
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float
) -> torch.Tensor:
    """Return the clipped value loss max((V - G)², (clip(V, V_old - c, V_old + c) - G)²) / 2.

    Args:
        values: V, with gradient, in score units.
        old_values: V_old, before the step's updates.
        returns: G.
        clip: c, in score units (report, 3.2.2: 0.15).

    The report states the clip alone. The formula is that of OpenAI baselines (Huang et al. 2022, "The 37 Implementation
    Details of PPO", detail 9), with a factor of 1/2.
    """
    clipped = values.clamp(old_values - clip, old_values + clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
