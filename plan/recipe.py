"""Any training stage's recipe with a section `plan` beside its own: on what it would run, and how long its data is.

The recipe is read by its stage's own schema, so it is checked as the stage checks it. Data need not be there yet, nor
models that are still to be made: those have the shape of the model that they will be made from.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from config import RecipeError, files, load
from config.inputs import missing_input, model_origin
from config.schema import Recipe, Section, number, show
from config.sections import model_inputs
from plan.hardware import DEVICES, Hardware, read_hardware
from ppo.recipe import PPO
from reward.recipe import Reward
from sft.recipe import SFT

SCHEMAS: dict[str, type[Recipe]] = {"sft": SFT, "reward": Reward, "ppo": PPO}
# What stands in a recipe for data that is still to be given.
LATER = "given-later.jsonl"


@dataclass(frozen=True)
class Plan(Section):
    stage: Literal["sft", "reward", "ppo"] | None = None
    """which stage the recipe is of; without it told by its sections and its file's name"""
    hardware: str | None = None
    """a file of recipes/accelerate/ without its .yaml; one process on what is here by default, as for auto"""
    processes: int | None = number(None, least=1)
    """how many processes, one a device, if not as many as the file says; where it says nothing, 8 a machine"""
    device: str | None = None
    """what a process runs on: cpu, h100, h200, a100, a100-40, l40s, 4090; of GPUs h100 by default"""
    memory_gib: float | None = number(None, above=0)
    """memory of a device, if not that of its kind"""
    tflops: float | None = number(None, above=0)
    """dense matrix products of a device, in 10^12 operations a second, if not those of its kind"""
    utilisation: float = number(0.4, above=0, most=1)
    """share of that speed which training reaches: an assumption, measure your own"""
    rows: int | None = number(None, least=1)
    """rows of data.train, after packing where rows are packed: tells steps where the recipe counts epochs"""
    row_tokens: int | None = number(None, least=1)
    """tokens in a row, or in both sides of a comparison together; as long as they may be by default"""
    sequence_tokens: int | None = number(None, least=1)
    """tokens in a sequence, of which a packed row holds several; a whole row by default"""
    prompt_tokens: int | None = number(None, least=1)
    """tokens in a prompt of PPO; data.max_prompt_tokens by default"""
    response_tokens: int | None = number(None, least=1)
    """tokens in a response; sampling.max_new_tokens by default"""
    lora_r: int = number(64, least=1)
    """rank of the adapters under models=shared, where there are none yet to look at"""

    def check(self, key: str) -> None:
        if self.device is not None and self.device not in DEVICES:
            raise RecipeError(
                f"{key}.device is {show(self.device)}; it must be one of {', '.join(DEVICES)}: for another give "
                f"{key}.memory_gib and {key}.tflops as well",
                key=f"{key}.device",
            )


@dataclass(frozen=True)
class Planned(Recipe):
    """What the command line describes: the part that is the plan's own."""

    plan: Plan = field(default_factory=Plan)
    """a stage's recipe stands beside this section"""


def planned_recipe(schema: type[Planned], path: str, overrides: Sequence[str]) -> Any:
    """A stage's recipe with a section `plan`. Raises RecipeError."""
    stage = stage_of(path, overrides)
    both = dataclasses.make_dataclass(
        stage, [("plan", Plan, field(default_factory=Plan))], bases=(SCHEMAS[stage],), frozen=True
    )
    recipe = load(both, path, [*_data_to_come(path, overrides), *overrides])
    hardware_of(recipe)
    origin = model_origin(recipe.model.path, path)
    for _, missing in model_inputs(origin, "model.path"):
        if not Path(missing).exists():
            raise RecipeError(f"model.path: {missing_input(missing, Path(path))}", key="model.path")
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, path=origin))


def stage_of(path: str, overrides: Sequence[str] = ()) -> str:
    """Which stage a recipe is of: what plan.stage says, else its sections, else the name of its file or a parent's."""
    layers = files.read(Path(path))
    sections = {name for _, values in layers for name in values}
    named = [override.partition("=")[2] for override in overrides if override.startswith("plan.stage=")]
    named += [values["plan"]["stage"] for _, values in layers if "stage" in (values.get("plan") or {})]
    if named:
        return named[-1] if named[-1] in SCHEMAS else "sft"  # which the schema then refuses, by name
    for stage in ("ppo", "reward"):
        if stage in sections and "eval" not in sections:
            return stage
    if not {"data", "model"} <= sections or "eval" in sections:
        raise RecipeError(f"{path} is no recipe of a stage that trains; take one of sft, base, pmp, rm or ppo")
    return "reward" if any(file.stem in ("pmp", "rm") for file, _ in layers) else "sft"


def hardware_of(recipe: Any) -> Hardware:
    """What the recipe's plan runs on. Raises RecipeError."""
    plan = recipe.plan
    return read_hardware(plan.hardware, plan.processes, plan.device, plan.memory_gib, plan.tflops)


def _data_to_come(path: str, overrides: Sequence[str]) -> list[str]:
    """Overrides for the data that a stage needs and that neither files nor command name."""
    layers = files.read(Path(path))
    given = OmegaConf.merge(*(values.get("data") or {} for _, values in layers)) if layers else {}
    keys = {"ppo": ("prompts", "pretrain")}.get(stage_of(path, overrides), ("train",))
    asked = {override.partition("=")[0] for override in overrides}
    return [f"data.{key}={LATER}" for key in keys if key not in given and f"data.{key}" not in asked]
