"""PPO's section `reward`: one reward, or a mix of several, which are normalised separately, weighted and summed.

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

# Parts of a mix name metrics, and metrics with one of these words in their names are timings or memory, not results
# (engine/run/metrics.py).
RESERVED_WORDS = re.compile("seconds|per_second|memory")


@dataclass(frozen=True)
class MixPart(Scoring):
    weight: float = number(1.0, above=0)
    """weight of its normalised score in the sum of all parts"""


@dataclass(frozen=True)
class Part:
    """One part of the reward that PPO maximises, as the recipe describes it."""

    name: str
    """name in reward.mix; empty for a single reward"""
    key: str
    """dotted recipe key: reward, or reward.mix.NAME"""
    scoring: Scoring
    weight: float


@dataclass(frozen=True)
class RewardSection(Scoring):
    mix: dict[str, Any] = whole_mapping()
    """several rewards instead of one, normalised separately, then weighted and summed: {NAME: a path, a list of paths,
    or a mapping with this section's other keys and `weight`, default 1}"""

    @property
    def parts(self) -> list[Part]:
        """The parts of the mix in the recipe's order; without a mix, the section itself as the only part."""
        if not self.mix:
            return [Part("", "reward", self, 1.0)]
        return [read_part(str(name), value) for name, value in self.mix.items()]

    @property
    def models(self) -> list[tuple[str, str]]:
        """The reward models of all parts, as (key, path)."""
        return [(f"{part.key}.path", path) for part in self.parts for path in part.scoring.paths]

    def sources(self, key: str) -> dict[str, Any]:
        return super().sources(key) | {f"{key}.mix": self.mix or None}

    def check(self, key: str) -> None:
        single = [name for name, value in super().sources(key).items() if value is not None]
        if self.mix and single:
            raise RecipeError(
                f"{key} has {single[0]} and {key}.mix; set {key}.mix={{}} for a single reward, or {single[0]}=null",
                key=single[0],
            )
        super().check(key)
        if self.mix and len(self.parts) < 2:
            raise RecipeError(
                f"{key}.mix has only one part, {self.parts[0].name}; add another, or give the reward as {key}.path, "
                f"{key}.rule or {key}.judge.url",
                key=f"{key}.mix",
            )


def read_part(name: str, value: Any) -> Part:
    """Return a part of the mix. Raises RecipeError if it has no scorer or its name cannot be used in metric names."""
    check_name(name, "reward.mix")
    if found := RESERVED_WORDS.search(name):
        raise RecipeError(
            f"reward.mix has the name {name}, but metrics with {found[0]} in their names are not scores; rename it",
            key="reward.mix",
        )
    key = f"reward.mix.{name}"
    section = scoring(value, key, MixPart)
    return Part(name, key, section, section.weight)
