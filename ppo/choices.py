"""Choices shared by PPO's recipe and its mathematics. Imports no torch."""

from typing import Literal

KlEstimator = Literal["k1", "k2", "k3"]
Advantage = Literal["gae", "rloo", "grpo"]
Schedule = Literal["constant", "linear", "cosine"]
# Held-out metrics (ppo/heldout.py) that can select the best checkpoint.
BestBy = Literal["heldout_score", "heldout_gold"]

# Largest relative error of a step's KL that an adaptive KL coefficient reacts to (Ziegler et al. 2019, 2.2).
MAX_KL_ERROR = 0.2
