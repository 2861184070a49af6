"""PPO's section `reward`: one reward, or a mix of several, each normalised by itself and then weighted.

    reward: {path: runs/rm/model}
    reward: {mix: {helpful: runs/rm/model, brief: {rule: "my_rules:brief", weight: 0.5}}}

Imports no torch.
"""

import re
from dataclasses import dataclass
from typing import Any

from config.schema import RecipeError, number, whole_mapping
from config.scoring import Scoring, scoring
from config.sections import check_name

# Metrics whose names contain one of these are no results of a run (engine/run/metrics.py), and parts name metrics.
RESERVED = re.compile("seconds|memory")


@dataclass(frozen=True)
class MixPart(Scoring):
    weight: float = number(1.0, above=0)
    """what its normalised score is multiplied by in the sum of all parts"""


@dataclass(frozen=True)
class Part:
    """One of the rewards whose sum PPO maximises."""

    name: str
    """among the parts of reward.mix; empty for the only reward"""
    key: str
    """where it stands in the recipe"""
    scoring: Scoring
    weight: float


@dataclass(frozen=True)
class RewardSection(Scoring):
    mix: dict[str, Any] = whole_mapping()
    """several rewards in place of one, each normalised by itself, then weighted and added: {NAME: a path, a list of
    paths, or a mapping with this section's other keys and `weight`, by default 1}"""

    @property
    def parts(self) -> list[Part]:
        """The rewards in the recipe's order; without a mix the one of this section."""
        if not self.mix:
            return [Part("", "reward", self, 1.0)]
        return [read_part(str(name), value) for name, value in self.mix.items()]

    @property
    def models(self) -> list[tuple[str, str]]:
        """(key, path) of the reward models of all parts."""
        return [(f"{part.key}.path", path) for part in self.parts for path in part.scoring.paths]

    def sources(self, key: str) -> dict[str, Any]:
        return super().sources(key) | {f"{key}.mix": self.mix or None}

    def check(self, key: str) -> None:
        single = [name for name, value in super().sources(key).items() if value is not None]
        if self.mix and single:
            raise RecipeError(
                f"{key} has {single[0]} beside {key}.mix; set {key}.mix={{}} for a single reward, or {single[0]}=null",
                key=single[0],
            )
        super().check(key)
        if self.mix and len(self.parts) < 2:
            raise RecipeError(
                f"{key}.mix has one part, {self.parts[0].name}; add another, or give what scores as {key}.path, "
                f"{key}.rule or {key}.judge.url",
                key=f"{key}.mix",
            )


def read_part(name: str, value: Any) -> Part:
    """Return a part of the mix. Raise RecipeError for what cannot score, and for a name that cannot be a metric's."""
    check_name(name, "reward.mix")
    if found := RESERVED.search(name):
        raise RecipeError(
            f"reward.mix has the name {name}, but metrics with {found[0]} in their names are no scores; rename it",
            key="reward.mix",
        )
    key = f"reward.mix.{name}"
    section = scoring(value, key, MixPart)
    return Part(name, key, section, section.weight)
