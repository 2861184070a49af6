"""Check figures of summary.json against the conditions in `eval.require`.

    {"differences.ppo.answers.accuracy.mean": ">= -0.01", "subjects.ppo.answers.without_end": "< 0.05"}

Keys are dotted paths into summary.json. A number in a path is an index into a list (`...gold.ci95.0`).
"""

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.schema import RecipeError, show

OPERATORS = {"<=": operator.le, ">=": operator.ge, "==": operator.eq, "<": operator.lt, ">": operator.gt}
CONDITION = re.compile(rf"\s*({'|'.join(OPERATORS)})\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")
ROOTS = ("subjects", "differences", "pairs", "rewards", "seconds")


@dataclass(frozen=True)
class Requirement:
    path: str
    operator: str
    bound: float

    def __str__(self) -> str:
        return f"{self.operator} {self.bound:g}"


@dataclass(frozen=True)
class Verdict:
    """A requirement with the measured value and whether it is met."""

    requirement: Requirement
    value: Any
    """the figure; None if it is null, missing or not a number"""
    ok: bool
    why: str | None = None
    """reason why there is no number to compare"""

    def __str__(self) -> str:
        value = show(self.value) if self.why is None else f"null ({self.why})"
        word = "ok    " if self.ok else "FAILED"
        return f"{word} {self.requirement.path} = {value}, required {self.requirement}"

    def as_dict(self) -> dict[str, Any]:
        row = {"path": self.requirement.path, "value": self.value, "required": str(self.requirement), "ok": self.ok}
        return row if self.why is None else row | {"why": self.why}


def read_requirements(value: Any, key: str, subjects: Sequence[str], rewards: Sequence[str]) -> list[Requirement]:
    """Parse `eval.require`. Raise RecipeError, naming `key`, for an unknown path or a malformed condition.

    `value` is a mapping, or the text of one without quotes: a shell removes the quotes of a command-line override, and
    the rest is not valid YAML.
    """
    if isinstance(value, str):
        pairs = [pair.partition(":") for pair in value.strip(" {}").split(",")]
        value = {path.strip(): condition.strip() for path, _, condition in pairs}
    if not isinstance(value, Mapping):
        raise RecipeError(
            f'{key} is {show(value)}; it must be a mapping, {{"differences.NAME.answers.accuracy.mean": ">= 0"}}',
            key=key,
        )
    return [_read(path, condition, key, subjects, rewards) for path, condition in value.items()]


def check_figures(requirements: Sequence[Requirement], summary: Mapping[str, Any]) -> list[Verdict]:
    """Compare a summary with each requirement. A figure that is null, missing or not a number fails."""
    return [_verdict(requirement, summary) for requirement in requirements]


def _read(path: str, condition: Any, key: str, subjects: Sequence[str], rewards: Sequence[str]) -> Requirement:
    root, *rest = path.split(".")
    if root not in ROOTS or not rest or not all(rest):
        raise RecipeError(
            f"{key}: {show(path)} is not a path into summary.json; start with {', '.join(ROOTS)}, for example "
            "differences.NAME.answers.accuracy.mean",
            key=key,
        )
    known = {"subjects": subjects, "differences": subjects, "rewards": rewards}.get(root)
    if known is not None and rest[0] not in known:
        among = f"eval.{'rewards' if root == 'rewards' else 'subjects'} ({', '.join(known)})"
        raise RecipeError(f"{key}: {path} names {rest[0]}, which is not among {among}", key=key)
    found = CONDITION.fullmatch(condition) if isinstance(condition, str) else None
    if found is None:
        raise RecipeError(
            f"{key}: {path} is {show(condition)}; it must be one of {' '.join(OPERATORS)} and a number, "
            'for example ">= 0.5"',
            key=key,
        )
    return Requirement(path, found[1], float(found[2]))


def _verdict(requirement: Requirement, summary: Mapping[str, Any]) -> Verdict:
    value: Any = summary
    parents: list[Any] = []
    for part in requirement.path.split("."):
        parents.append(value)
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (LookupError, TypeError, ValueError):
            return Verdict(requirement, None, False, f"summary.json has no {requirement.path}")
    if value is None:
        reasons = parents[-1].get("why", {}) if isinstance(parents[-1], Mapping) else {}
        return Verdict(requirement, None, False, reasons.get(part, "not measured"))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return Verdict(requirement, None, False, f"{requirement.path} is not a number; name one of its parts")
    return Verdict(requirement, value, OPERATORS[requirement.operator](value, requirement.bound))
