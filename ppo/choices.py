"""The choices that both PPO's recipe and its mathematics name, declared once. Imports no torch."""

from typing import Literal

KlEstimator = Literal["k1", "k2", "k3"]
Advantage = Literal["gae", "rloo", "grpo"]
Schedule = Literal["constant", "linear", "cosine"]
# Metrics of held-out prompts (ppo/heldout.py) that the best checkpoint may be chosen by.
BestBy = Literal["heldout_score", "heldout_gold"]

# An adaptive KL coefficient reacts to the relative error of a step's KL, clipped at this (Ziegler et al. 2019, 2.2).
MAX_KL_ERROR = 0.2
