"""The recipe of a training stage with the section `plan`: the planned hardware and the lengths of data.

The recipe is loaded and checked with the stage's own schema. Data need not exist yet. Neither need models that another
recipe trains: they have the shape of the model that their training starts from.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from config import RecipeError, files, load
from config.inputs import missing_input, model_origin
from config.schema import Recipe, Section, number, show
from config.sections import model_inputs
from config.stage import stage_of
from plan.hardware import DEVICES, Hardware, read_hardware
from ppo.recipe import PPO
from reward.recipe import Reward
from sft.recipe import SFT

Trained = SFT | Reward | PPO
SCHEMAS: dict[str, type[Trained]] = {schema.STAGE: schema for schema in (SFT, Reward, PPO)}
# Placeholder for data that the user has not named yet.
DATA_PLACEHOLDER = "given-later.jsonl"


@dataclass(frozen=True)
class Plan(Section):
    hardware: str | None = None
    """name of a file in recipes/accelerate/ without .yaml; null and auto: one process on this machine's device"""
    processes: int | None = number(None, least=1)
    """number of processes, one per device; by default the number in the file, or else 8 per machine"""
    device: str | None = None
    """device of a process: cpu, h100, h200, a100, a100-40, l40s or 4090; by default cpu or h100, depending on the
    file"""
    memory_gib: float | None = number(None, above=0)
    """memory of a device in GiB, if it differs from the usual one"""
    tflops: float | None = number(None, above=0)
    """speed of dense matrix products on a device in TFLOP/s, if it differs from the manufacturer's figure"""
    utilisation: float = number(0.4, above=0, most=1)
    """share of that speed that training reaches (model FLOPs utilisation): an assumption, measure your own"""
    rows: int | None = number(None, least=1)
    """number of rows of data.train, after packing; needed for the number of steps if the recipe counts epochs"""
    row_tokens: int | None = number(None, least=1)
    """tokens in a row, or in both sides of a comparison together; by default the longest allowed"""
    sequence_tokens: int | None = number(None, least=1)
    """tokens in each sequence of a packed row; by default a whole row"""
    prompt_tokens: int | None = number(None, least=1)
    """tokens in a prompt of PPO; by default data.max_prompt_tokens"""
    response_tokens: int | None = number(None, least=1)
    """tokens in a response of PPO; by default sampling.max_new_tokens"""
    lora_r: int = number(64, least=1)
    """rank of the adapters with models=shared, if they are not trained yet"""

    def check(self, key: str) -> None:
        if self.device is not None and self.device not in DEVICES:
            raise RecipeError(
                f"{key}.device is {show(self.device)}; it must be one of {', '.join(DEVICES)}: for another give "
                f"{key}.memory_gib and {key}.tflops as well",
                key=f"{key}.device",
            )


@dataclass(frozen=True)
class PlanRecipe(Recipe):
    """The section `plan` of a recipe; its other sections are read with the stage's schema."""

    plan: Plan = field(default_factory=Plan)


@dataclass(frozen=True)
class Planned:
    """A stage's recipe and the section `plan`."""

    recipe: Trained
    plan: Plan

    @property
    def hardware(self) -> Hardware:
        """The planned hardware. Raises RecipeError if its configuration does not exist."""
        plan = self.plan
        return read_hardware(plan.hardware, plan.processes, plan.device, plan.memory_gib, plan.tflops)


def planned_recipe(path: str, overrides: Sequence[str]) -> Planned:
    """Return the recipe of a training stage with the section `plan`; its model is resolved to one that exists.

    Raise RecipeError for a mistake in the recipe, and if its stage is not a training stage.
    """
    stage = stage_of(path, overrides)
    if stage not in SCHEMAS:
        raise RecipeError(f"{path} is not a recipe of a training stage; use one of sft, base, pmp, rm or ppo")
    schema = SCHEMAS[stage]
    recipe: Trained = load(schema, path, [*_data_to_come(stage, path, overrides), *overrides], other_sections=("plan",))
    sections = [section.name for section in dataclasses.fields(schema)]
    planned = Planned(recipe, load(PlanRecipe, path, overrides, other_sections=sections).plan)
    _ = planned.hardware
    origin = model_origin(recipe.model.path, path)
    for _, missing in model_inputs(origin, "model.path"):
        if not Path(missing).exists():
            raise RecipeError(f"model.path: {missing_input(missing, Path(path))}", key="model.path")
    model = dataclasses.replace(recipe.model, path=origin)
    return dataclasses.replace(planned, recipe=dataclasses.replace(recipe, model=model))


def _data_to_come(stage: str, path: str, overrides: Sequence[str]) -> list[str]:
    """Return overrides with placeholders for mandatory data that neither the files nor the overrides name."""
    given = OmegaConf.merge(*(values.get("data") or {} for _, values in files.read_layers(Path(path))))
    keys = {"ppo": ("prompts", "pretrain")}.get(stage, ("train",))
    asked = {override.partition("=")[0] for override in overrides}
    return [f"data.{key}={DATA_PLACEHOLDER}" for key in keys if key not in given and f"data.{key}" not in asked]
