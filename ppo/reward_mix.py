"""Combine several rewards into one: each part is normalised separately, then weighted and summed.

    s     = Σ_i w_i n_i(r_i)     n_i: `ppo.reward_normalisation` with the running statistics of part i
    score = Σ_i w_i f_i(r_i)     f_i: the same with the statistics of the first step, which stay fixed

r_i are raw scores of part i. PPO maximises s, whose units move with the running statistics: the mean of s is near 0 at
every step if the policy does not change. `score` is s in the units of the first step, so steps and checkpoints can be
compared by it. A single reward has the name "" and weight 1; for it s = n(r) and score = r.

The report has one reward and normalises it by its running mean (3.2.2); mixing is our addition.
"""

from collections.abc import Mapping, Sequence

import torch

from ppo.advantages import ScoreNormaliser
from ppo.reward_section import Part

# Raw scores, (n,), by the name of the part; a single reward is named "".
PartScores = Mapping[str, torch.Tensor]
# Scores whose standard deviation is at most this share of their mean are equal up to rounding.
MAX_EQUAL_DEVIATION_SHARE = 1e-6


class RewardMix:
    """Weights and running statistics of the parts of a reward."""

    def __init__(self, parts: Sequence[Part], kind: str):
        self.weights = {part.name: part.weight for part in parts}
        self.normalisers = {name: ScoreNormaliser(kind) for name in self.weights}
        self.first = {name: FirstStepNormaliser(kind) for name in self.weights if name}

    def update(self, scores: PartScores) -> None:
        """Add a batch of raw scores, (n,) per part, to the statistics."""
        for name, of_part in scores.items():
            self.normalisers[name].update(of_part)
            if name in self.first:
                self.first[name].update(of_part)

    def normalised(self, scores: PartScores) -> torch.Tensor:
        """Return s, (n,), which PPO maximises."""
        return self.weighted_sum({name: self.normalisers[name](of_part) for name, of_part in scores.items()})

    def comparable(self, scores: PartScores) -> torch.Tensor:
        """Return `score`, (n,), which is comparable between steps; NaN before any response has finished.

        Under kind "none", and for a single reward, it is defined from the start.
        """
        return self.weighted_sum(
            {name: self.first[name](of_part) if name in self.first else of_part for name, of_part in scores.items()}
        )

    def weighted_sum(self, scores: PartScores) -> torch.Tensor:
        first, *others = (self.weights[name] * of_part for name, of_part in scores.items())
        return sum(others, start=first)

    def metrics(self, scores: PartScores) -> dict[str, float]:
        """Return the step's metrics: `running_mean` of a single reward, or three metrics of each part of a mix."""
        if not self.first:
            return {"running_mean": self.normalisers[""].mean}
        found = {}
        for name, of_part in scores.items():
            normaliser = self.normalisers[name]
            found[f"score_{name}"] = float(of_part.double().mean())
            found[f"normalised_score_{name}"] = float(normaliser(of_part).double().mean())
            found[f"running_mean_{name}"] = normaliser.mean
        return found

    @property
    def state(self) -> dict[str, ScoreNormaliser]:
        """The state saved in checkpoints, by name: `score_normaliser`, or for a mix two entries per part."""
        if not self.first:
            return {"score_normaliser": self.normalisers[""]}
        running = {f"score_normaliser_{name}": normaliser for name, normaliser in self.normalisers.items()}
        return running | {f"first_step_{name}": normaliser for name, normaliser in self.first.items()}


class FirstStepNormaliser(ScoreNormaliser):
    """Normalise by the scores of the first step in which a response has finished; later steps change nothing.

    If all scores of that step are equal up to rounding, "mean_std" subtracts their mean and does not divide. Before
    that step, "mean" and "mean_std" return NaN.
    """

    def update(self, scores: torch.Tensor) -> None:
        if self.count == 0:
            super().update(scores)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        if self.kind != "none" and self.count == 0:
            return torch.full_like(scores, float("nan"))
        equal = self.count and (self.squares / self.count) ** 0.5 <= MAX_EQUAL_DEVIATION_SHARE * abs(self.mean)
        return scores - self.mean if self.kind == "mean_std" and equal else super().__call__(scores)
