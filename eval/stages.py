"""The run folders that an evaluation's models came from: found by the models' paths, read as files."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from config.scoring import scoring
from engine.run import metrics
from eval.recipe import Eval


@dataclass(frozen=True)
class Stage:
    """A run folder: runs/<name>/, where the model is runs/<name>/model."""

    name: str
    path: Path

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe as plain values."""
        return yaml.safe_load(self.recipe_text)

    @cached_property
    def recipe_text(self) -> str:
        return (self.path / "recipe.yaml").read_text(encoding="utf-8")

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one a step that was logged."""
        return metrics.read(self.path / "metrics.jsonl")

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """The lines of samples.jsonl; empty where a stage keeps none."""
        return metrics.read(self.path / "samples.jsonl")

    @cached_property
    def seconds(self) -> float | None:
        """How long the finished run took; None for one that has not finished."""
        finished = self.path / "finished.json"
        return json.loads(finished.read_text(encoding="utf-8"))["seconds"] if finished.exists() else None


def stages(recipe: Eval) -> dict[str, Stage]:
    """By name, in the pipeline's order; models that lie in no run folder (hub ids, foreign folders) have none."""
    subjects = recipe.eval
    rewards = [] if subjects.reward is None else scoring(subjects.reward, "eval.reward").paths
    models = {"base": subjects.base, "sft": subjects.sft, "pmp": subjects.pmp}
    models |= {"rm" if number == 1 else f"rm {number}": path for number, path in enumerate(rewards, start=1)}
    models["ppo"] = subjects.ppo
    folders = {name: Path(path).parent for name, path in models.items() if path is not None}
    return {name: Stage(name, folder) for name, folder in folders.items() if (folder / "recipe.yaml").exists()}


def seconds_by_stage(recipe: Eval) -> dict[str, float]:
    """Seconds of every finished stage, and of the making of the world where the prompts come from one."""
    seconds: dict[str, float] = {}
    prompts = recipe.data.sources("prompts")
    world = Path(prompts[0].path).parent / "world.json" if prompts else None
    if world and world.exists():
        described = json.loads(world.read_text(encoding="utf-8"))
        if "seconds" in described:
            seconds["world"] = described["seconds"]
    for stage in stages(recipe).values():
        if stage.seconds is not None:
            seconds[stage.name] = stage.seconds
    return seconds
