"""Find and read the run folders that trained an evaluation's models.

    run_folders(recipe)       {NAME: Stage} of the subjects and rewards whose path is RUN/model, beside RUN/recipe.yaml
    seconds_by_stage(recipe)  {NAME: seconds} of the finished runs, and of the tiny world if its prompts are used

A Stage reads its files lazily. Models outside a run folder (hub ids, endpoints, other folders) have no Stage.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from engine.files import jsonl
from eval.recipe import Eval
from eval.subjects import LocalModel


@dataclass(frozen=True)
class Stage:
    """The run folder of one training stage, with its model in the subfolder model/."""

    name: str
    """name of the subject or reward in the evaluation; the second model of a reward called rm is `rm 2`"""
    path: Path

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The run's resolved recipe as plain values."""
        return yaml.safe_load((self.path / "recipe.yaml").read_text(encoding="utf-8"))

    @property
    def kind(self) -> str:
        """The recipe's `stage`: sft, reward or ppo; "" for a run of an older version without one."""
        return self.recipe.get("stage", "")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one per logged step."""
        return jsonl.read(self.path / "metrics.jsonl")

    @cached_property
    def rollouts(self) -> list[dict[str, Any]]:
        """The lines of PPO's rollouts.jsonl; empty for other stages."""
        return jsonl.read(self.path / "rollouts.jsonl")

    @property
    def seconds(self) -> float | None:
        """Duration of the run in seconds; None if it has not finished."""
        return self._finished.get("seconds")

    @property
    def finished_at(self) -> str:
        """When the run finished, as an ISO 8601 time; "" if it has not finished."""
        return self._finished.get("at", "")

    @cached_property
    def _finished(self) -> dict[str, Any]:
        path = self.path / "finished.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def run_folders(recipe: Eval) -> dict[str, Stage]:
    """Return stages by name: the subjects' in the recipe's order, then the rewards'. A folder is listed once."""
    models = [(name, kind.path) for name, kind in recipe.eval.subject_kinds().items() if isinstance(kind, LocalModel)]
    for name, scoring in recipe.eval.reward_models().items():
        models += [(name if number == 1 else f"{name} {number}", path) for number, path in enumerate(scoring.paths, 1)]
    found: dict[str, Stage] = {}
    for name, path in models:
        folder = Path(path).parent
        if (folder / "recipe.yaml").exists() and folder not in {stage.path for stage in found.values()}:
            free = name if name not in found else f"{name} (reward)"
            found[free] = Stage(free, folder)
    return found


def seconds_by_stage(recipe: Eval) -> dict[str, float]:
    """Return the seconds of each finished stage, ordered by the time it finished; the tiny world comes first."""
    seconds: dict[str, float] = {}
    prompts = recipe.data.sources("prompts")
    world = Path(prompts[0].path).parent / "world.json" if prompts else None
    if world and world.exists():
        described = json.loads(world.read_text(encoding="utf-8"))
        if "seconds" in described:
            seconds["world"] = described["seconds"]
    for stage in sorted(run_folders(recipe).values(), key=lambda stage: stage.finished_at):
        if stage.seconds is not None:
            seconds[stage.name] = stage.seconds
    return seconds
