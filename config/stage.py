"""The stage of a recipe, which its `stage:` key alone decides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.files import line_of, read_layers
from config.schema import STAGES, RecipeError, show

Layers = Sequence[tuple[Path, Mapping[Any, Any]]]
# Make targets whose name is not that of the stage: by stage, and by stage and file name of the recipe.
TARGETS = {"reward": "rm"}
NAMED_TARGETS = {
    ("sft", "base"): "base",
    ("sft", "pretrain"): "base",
    ("reward", "pmp"): "pmp",
    ("reward", "harmless"): "harmless",
}


def make_target(stage: str, name: str = "") -> str:
    """Return the make target for a recipe of a stage; `name` is the recipe's file name without its suffix."""
    return NAMED_TARGETS.get((stage, name)) or TARGETS.get(stage, stage)


def stage_of(path: str | Path, overrides: Sequence[str] = ()) -> str:
    """Return the stage of a recipe file with `overrides` applied. Raise RecipeError if it has none."""
    layers = read_layers(Path(path))
    given = [override.partition("=")[2] for override in overrides if override.startswith("stage=")]
    return check_stage(layers, given[-1] if given else None)


def check_stage(layers: Layers, override: Any = None, expected: str | None = None) -> str:
    """Return the stage of a recipe: the override, or else the value in the last of `layers` that has one.

    Raise RecipeError if there is none, if it is not one of `STAGES`, or if it is not the `expected` stage.
    """
    path = layers[-1][0]
    named = [(file, values["stage"]) for file, values in layers if "stage" in values]
    if override is None and not named:
        raise RecipeError(
            f'{path} has no stage; add "stage: {expected}" as its first line'
            if expected
            else f'{path} has no stage; add one as its first line, for example "stage: sft" ({", ".join(STAGES)})'
        )
    stage, where = override, ""
    if override is None:
        file, stage = named[-1]
        where = f"{file}:{line_of(file, 'stage')}: "
    if stage not in STAGES:
        raise RecipeError(f"{where}stage is {show(stage)}; it must be one of {', '.join(STAGES)}")
    if expected not in (None, stage):
        raise RecipeError(f"{where}stage is {stage}, but this command runs {expected}; use make {make_target(stage)}")
    return stage
