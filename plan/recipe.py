"""The recipe of any training stage, with a section `plan` beside its own: the planned hardware and lengths of data.

The stage's own schema reads the recipe, so it is checked as the stage checks it. Data need not exist yet, nor models
that have yet to be trained: those have the shape of the model that they start from.
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

SCHEMAS = {schema.STAGE: schema for schema in (SFT, Reward, PPO)}
# Stands in a recipe for data that the user has yet to name.
LATER = "given-later.jsonl"


@dataclass(frozen=True)
class Plan(Section):
    hardware: str | None = None
    """a file of recipes/accelerate/ without its .yaml; one process on this machine's device by default, as for auto"""
    processes: int | None = number(None, least=1)
    """number of processes, one a device; by default what the file says, or else 8 a machine"""
    device: str | None = None
    """device of a process: cpu, h100, h200, a100, a100-40, l40s, 4090; h100 by default if it is a GPU"""
    memory_gib: float | None = number(None, above=0)
    """memory of a device, if it differs from that of its kind"""
    tflops: float | None = number(None, above=0)
    """dense matrix products of a device, in 10^12 operations a second, if they differ from those of its kind"""
    utilisation: float = number(0.4, above=0, most=1)
    """share of that speed that training reaches: an assumption, measure your own"""
    rows: int | None = number(None, least=1)
    """rows of data.train, after packing if rows are packed: needed to count steps if the recipe counts epochs"""
    row_tokens: int | None = number(None, least=1)
    """tokens in a row, or in both sides of a comparison together; the longest allowed by default"""
    sequence_tokens: int | None = number(None, least=1)
    """tokens in a sequence, of which a packed row holds several; a whole row by default"""
    prompt_tokens: int | None = number(None, least=1)
    """tokens in a prompt of PPO; data.max_prompt_tokens by default"""
    response_tokens: int | None = number(None, least=1)
    """tokens in a response; sampling.max_new_tokens by default"""
    lora_r: int = number(64, least=1)
    """rank of the adapters under models=shared, if they have yet to be trained"""

    def check(self, key: str) -> None:
        if self.device is not None and self.device not in DEVICES:
            raise RecipeError(
                f"{key}.device is {show(self.device)}; it must be one of {', '.join(DEVICES)}: for another give "
                f"{key}.memory_gib and {key}.tflops as well",
                key=f"{key}.device",
            )


@dataclass(frozen=True)
class PlanRecipe(Recipe):
    """What of the recipe is the plan's own."""

    plan: Plan = field(default_factory=Plan)


@dataclass(frozen=True)
class Planned:
    """A stage's recipe and what it is planned for."""

    recipe: SFT | Reward | PPO
    plan: Plan

    @property
    def hardware(self) -> Hardware:
        """Raises RecipeError if the plan names hardware that there is not."""
        plan = self.plan
        return read_hardware(plan.hardware, plan.processes, plan.device, plan.memory_gib, plan.tflops)


def planned_recipe(path: str, overrides: Sequence[str]) -> Planned:
    """Return the recipe of a training stage and its section `plan`, its model resolved to one that exists.

    Raise RecipeError, also if the recipe's stage does not train.
    """
    stage = stage_of(path, overrides)
    if stage not in SCHEMAS:
        raise RecipeError(f"{path} is no recipe of a stage that trains; take one of sft, base, pmp, rm or ppo")
    schema = SCHEMAS[stage]
    recipe = load(schema, path, [*_data_to_come(stage, path, overrides), *overrides], other_sections=("plan",))
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
    """Return overrides for the data that a stage needs and that neither the files nor the command name."""
    given = OmegaConf.merge(*(values.get("data") or {} for _, values in files.read(Path(path))))
    keys = {"ppo": ("prompts", "pretrain")}.get(stage, ("train",))
    asked = {override.partition("=")[0] for override in overrides}
    return [f"data.{key}={LATER}" for key in keys if key not in given and f"data.{key}" not in asked]
