"""The scores of several rewards as one: each part is normalised by itself, and all are added by their weights.

    s     = Σ_i w_i n_i(r_i)     n_i: `ppo.reward_normalisation` by the running statistics of part i
    score = Σ_i w_i f_i(r_i)     f_i: the same by the statistics of the first step, kept unchanged

What PPO is trained on, s, moves with the running statistics: a policy that does not change has a mean near 0 at every
step. Score is s in the units of the first step, so that one step, or one checkpoint, can be compared with another.
Of the only reward, which has no name, s = n(r) and score = r.
"""

from collections.abc import Mapping, Sequence

import torch

from ppo.advantages import ScoreNormaliser
from ppo.reward_section import Part

# Raw scores by the part's name; the only reward's is "".
PartScores = Mapping[str, torch.Tensor]
# A deviation of less than this share of the mean is rounding: the scores are equal.
SMALLEST_DEVIATION = 1e-6


class RewardMix:
    """Weights and running statistics of the parts of a reward."""

    def __init__(self, parts: Sequence[Part], kind: str):
        self.weights = {part.name: part.weight for part in parts}
        self.normalisers = {name: ScoreNormaliser(kind) for name in self.weights}
        self.first = {name: FirstStep(kind) for name in self.weights if name}

    def update(self, scores: PartScores) -> None:
        """Take in a batch of raw scores, (n,) of each part."""
        for name, of_part in scores.items():
            self.normalisers[name].update(of_part)
            if name in self.first:
                self.first[name].update(of_part)

    def normalised(self, scores: PartScores) -> torch.Tensor:
        """Return s, (n,), of raw scores, (n,) of each part."""
        return self.weighted_sum({name: self.normalisers[name](of_part) for name, of_part in scores.items()})

    def comparable(self, scores: PartScores) -> torch.Tensor:
        """Return score, (n,), of raw scores, (n,) of each part."""
        return self.weighted_sum(
            {name: self.first[name](of_part) if name in self.first else of_part for name, of_part in scores.items()}
        )

    def weighted_sum(self, scores: PartScores) -> torch.Tensor:
        first, *others = (self.weights[name] * of_part for name, of_part in scores.items())
        return sum(others, start=first)

    def metrics(self, scores: PartScores) -> dict[str, float]:
        """Return the running mean, or of each part its running mean and its step's means, raw and normalised."""
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
        """What a checkpoint keeps, by name: `score_normaliser` of the only reward, else two of each part."""
        if not self.first:
            return {"score_normaliser": self.normalisers[""]}
        running = {f"score_normaliser_{name}": normaliser for name, normaliser in self.normalisers.items()}
        return running | {f"first_step_{name}": normaliser for name, normaliser in self.first.items()}


class FirstStep(ScoreNormaliser):
    """Normalises by the scores of the first step in which a response has finished, and of no later one.

    Scores that are all equal there leave the part in its raw units, around their mean; before that step nothing is
    known of them, so what `mean` and `mean_std` make of scores is NaN.
    """

    def update(self, scores: torch.Tensor) -> None:
        if self.count == 0:
            super().update(scores)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        if self.kind != "none" and self.count == 0:
            return torch.full_like(scores, float("nan"))
        equal = self.count and (self.squares / self.count) ** 0.5 <= SMALLEST_DEVIATION * abs(self.mean)
        return scores - self.mean if self.kind == "mean_std" and equal else super().__call__(scores)
