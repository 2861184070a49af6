"""`python -m release.checkpoint RUN OUT [step=N]`: write the model of a run's checkpoint as a model folder.

For an SFT run, finished or not, and for the policy of a PPO run; OUT loads as the run's own `model/` would. Without
`step` it is the newest checkpoint. Of a reward model the score offset is known at the end of its run only.
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
class Released(Recipe):
    """The sections of an SFT or PPO recipe that say what a checkpoint's weights belong to."""

    model: Model = field(default_factory=Model)
    models: str = "full"
    """PPO's: four whole models, or adapters of one shared base"""
    lora: Lora = field(default_factory=Lora)
    run: TrainingRun = field(default_factory=TrainingRun)


def release(arguments: list[str]) -> None:
    """Write the checkpoint's model to OUT, which must not exist yet, with tokenizer and card."""
    paths = [argument for argument in arguments if not argument.startswith("step=")]
    steps = [argument.removeprefix("step=") for argument in arguments if argument.startswith("step=")]
    if len(paths) != 2 or len(steps) > 1 or not all(re.fullmatch(r"\d+", step) for step in steps):
        raise RunError(f"a run folder, a new folder and perhaps a step are needed: {USAGE}")
    run, out = map(Path, paths)
    if not (run / "recipe.yaml").is_file():
        raise RunError(f"{run} is no run folder; it has no recipe.yaml")
    if out.exists():
        raise RunError(f"{out} exists already; name a folder that does not")
    recipe = load(Released, run / "recipe.yaml", other_sections=True)
    if recipe.stage not in ("sft", "ppo"):
        raise RunError(f"{run} is a run of stage {recipe.stage}; checkpoints of sft and ppo can be released")
    checkpoint = find(run, int(steps[0]) if steps else None)
    step, write = checkpoints.step_of(checkpoint), writer(recipe, checkpoint)

    def fill(folder: Path) -> None:
        write(folder)
        card = model_card(run, str(out), model=folder, step=step)
        (folder / "README.md").write_text(card, encoding="utf-8")

    durable.write_folder(out, fill)
    print(f"{out}: the model of {checkpoint}")


def find(run: Path, step: int | None) -> Path:
    """Return the checkpoint of a step, or the newest. Raises RunError, naming those that there are."""
    found = {checkpoints.step_of(path): path for path in checkpoints.complete_checkpoints(run)}
    if not found:
        raise RunError(f"{run} holds no complete checkpoint; its run writes one every run.save_steps steps")
    step = max(found) if step is None else step
    if step not in found:
        raise RunError(
            f"{run} holds no checkpoint of step {step}; it holds those of {', '.join(map(str, found))} "
            "(run.keep_checkpoints and run.save_steps say which are kept)"
        )
    return found[step]


def writer(recipe: Released, checkpoint: Path) -> Callable[[Path], None]:
    """Return a function that writes a folder with the checkpoint's model."""
    section = recipe.model
    tokenizer = load_tokenizer(section.path, section.revision)
    if recipe.models == "shared":
        adapter = read_adapter(section.path, "model.path")
        plain = replace(section, path=adapter.config["base_model_name_or_path"], dtype="auto")
        base = load_causal(plain.path, plain, tokenizer, trained=False)
        role = Role(base, Roles(), "policy", adapter, torch.float32, trained=True)
        training_state.read_weights(checkpoint / "policy" / training_state.WEIGHTS, role)
        return lambda folder: write_adapter(role.adapter, role.tensors(), role.base, tokenizer, folder)
    model = load_causal(section.path, section, tokenizer, trained=True)
    if recipe.stage == "ppo":
        weights = checkpoint / "policy" / training_state.WEIGHTS
    else:
        weights = checkpoint / BY_NAME
        model = add_adapters(model, recipe.lora, tokenizer, recipe.run.seed, torch.float32)
    training_state.read_weights(weights, model)
    return lambda folder: save_model(model, tokenizer, folder, merge=recipe.lora.merge)


if __name__ == "__main__":
    run_command(release, sys.argv[1:])
