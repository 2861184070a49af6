"""`python -m release.checkpoint RUN OUT [step=N]`: write a checkpoint of a run as a model folder.

Works for SFT runs and for the policy of PPO runs, finished or not. OUT loads like the run's own `model/`. The default
is the newest checkpoint. Reward models are refused, because their score offset is only computed at the end of the run.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from config import load
from config.schema import Recipe
from config.sections import Lora, Model, TrainingRun
from engine.errors import RunError
from engine.files import durable
from engine.models.adapter_files import read_adapter, write_adapter
from engine.models.adapters import add_adapters
from engine.models.loading import load_causal
from engine.models.multi_adapter import Role, Roles
from engine.models.saving import save_model
from engine.models.tokenizer import load_tokenizer
from engine.run import checkpoints, training_state
from engine.run.card import model_card
from engine.run.entry import run as run_command
from engine.run.named_checkpoints import BY_NAME

USAGE = 'make release ARGS="RUN OUT step=40"'


@dataclass(frozen=True)
class ReleaseRecipe(Recipe):
    """The sections of an SFT or PPO recipe that are needed to load a checkpoint's weights."""

    model: Model = field(default_factory=Model)
    models: str = "full"
    """PPO's key `models`: "full", or "shared" for adapters of one base"""
    lora: Lora = field(default_factory=Lora)
    run: TrainingRun = field(default_factory=TrainingRun)


def release(arguments: list[str]) -> None:
    """Write the checkpoint's model, tokenizer and card to OUT, from the arguments RUN OUT [step=N].

    Raises RunError for bad arguments, if OUT exists, or if RUN has no such checkpoint.
    """
    paths = [argument for argument in arguments if not argument.startswith("step=")]
    steps = [argument.removeprefix("step=") for argument in arguments if argument.startswith("step=")]
    if len(paths) != 2 or len(steps) > 1 or not all(re.fullmatch(r"\d+", step) for step in steps):
        raise RunError(f"a run folder, a new folder and optionally a step are needed: {USAGE}")
    run, out = map(Path, paths)
    if not (run / "recipe.yaml").is_file():
        raise RunError(f"{run} is not a run folder; it has no recipe.yaml")
    if out.exists():
        raise RunError(f"{out} already exists; name a new folder")
    recipe = load(ReleaseRecipe, run / "recipe.yaml", other_sections=True)
    if recipe.stage not in ("sft", "ppo"):
        raise RunError(f"{run} is a run of stage {recipe.stage}; only checkpoints of sft and ppo can be released")
    checkpoint = find_checkpoint(run, int(steps[0]) if steps else None)
    step, write = checkpoints.step_of(checkpoint), model_writer(recipe, checkpoint)

    def fill(folder: Path) -> None:
        write(folder)
        card = model_card(run, str(out), model=folder, step=step)
        (folder / "README.md").write_text(card, encoding="utf-8")

    durable.write_folder(out, fill)
    print(f"{out}: the model of {checkpoint}")


def find_checkpoint(run: Path, step: int | None) -> Path:
    """Return the checkpoint of `step`, by default the newest. Raises RunError, listing all steps, if it is missing."""
    found = {checkpoints.step_of(path): path for path in checkpoints.complete_checkpoints(run)}
    if not found:
        raise RunError(f"{run} has no complete checkpoint; a run saves one every run.save_steps steps")
    step = max(found) if step is None else step
    if step not in found:
        raise RunError(
            f"{run} has no checkpoint of step {step}; it has those of {', '.join(map(str, found))} "
            "(run.keep_checkpoints and run.save_steps decide which are kept)"
        )
    return found[step]


def model_writer(recipe: ReleaseRecipe, checkpoint: Path) -> Callable[[Path], None]:
    """Load the checkpoint's model and return a function that writes it to a folder."""
    section = recipe.model
    tokenizer = load_tokenizer(section.path, section.revision)
    if recipe.models == "shared":
        adapter = read_adapter(section.path, "model.path")
        plain = replace(section, path=adapter.config["base_model_name_or_path"], dtype="auto")
        base = load_causal(plain.path, plain, tokenizer, trained=False)
        role = Role(base, Roles(), "policy", adapter, torch.float32, trained=True)
        training_state.read_weights(checkpoint / "policy" / training_state.WEIGHTS, role)
        return lambda folder: write_adapter(role.adapter, role.tensors(), role.base, tokenizer, folder)
    loaded = load_causal(section.path, section, tokenizer, trained=True)
    model: torch.nn.Module = loaded
    if recipe.stage == "ppo":
        weights = checkpoint / "policy" / training_state.WEIGHTS
    else:
        weights = checkpoint / BY_NAME
        model = add_adapters(loaded, recipe.lora, tokenizer, recipe.run.seed, torch.float32)
    training_state.read_weights(weights, model)
    return lambda folder: save_model(model, tokenizer, folder, merge=recipe.lora.merge)


if __name__ == "__main__":
    run_command(release, sys.argv[1:])
