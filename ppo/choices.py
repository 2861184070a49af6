"""The choices that both PPO's recipe and its mathematics name, declared once. Imports no torch."""

from typing import Literal

KlEstimator = Literal["k1", "k2", "k3"]
Advantage = Literal["gae", "rloo", "grpo"]
Schedule = Literal["constant", "linear", "cosine"]
