"""What a stage reads has to be there before it begins; if not, which command makes it."""

import glob
import os
import re
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from config import files
from config.schema import Recipe, RecipeError

# Recipe (by the name of its file) and the make target that runs it.
TARGETS = {"pretrain": "base"} | {
    stage: stage for stage in ("base", "sft", "pmp", "rm", "ppo", "prompts", "candidates", "pairs")
}
TINY_RECIPES = Path("recipes/tiny")


def check_inputs(recipe: Recipe, recipe_path: Path) -> None:
    """Raises RecipeError for the first input that is not on this machine."""
    for key, path in recipe.inputs():
        if not os.path.exists(path) and not glob.glob(path, recursive=True):
            raise RecipeError(f"{key}: {missing_input(path, recipe_path)}", key=key)


def missing_input(path: str, recipe_path: Path) -> str:
    """One line for an input that is not there, with the command that makes it where that is known.

    It is known if the path lies in the tiny world, or in the run folder of another recipe beside `recipe_path`.
    """
    tiny = Path(os.environ.get("TINY", "runs/tiny"))
    seed = re.fullmatch(r"tiny-(\d+)", tiny.name)
    again = f" SEED={seed[1]}" if seed else ""
    if _inside(path, tiny / "world"):
        return f"{path} does not exist; make it with: make world{again}"
    made_by = maker(path, recipe_path)
    if made_by is None:
        return f"{path} does not exist; name a file or folder that does, or the id of one on the hub (owner/name)"
    of_tiny = made_by.parent.resolve() == TINY_RECIPES.resolve()
    way = again if of_tiny else f" RECIPE={made_by}"
    return f"{path} does not exist; make it with: make {TARGETS[made_by.stem]}{way}"


def maker(path: str, recipe_path: Path) -> Path | None:
    """The recipe beside `recipe_path` whose run folder `path` lies in; None if there is none."""
    folders = {_run_dir(sibling): sibling for sibling in recipe_path.parent.glob("*.yaml") if sibling.stem in TARGETS}
    within = [folder for folder in folders if folder is not None and _inside(path, folder)]
    return folders[max(within, key=lambda folder: len(folder.parts))] if within else None


def model_origin(model: str, recipe_path: str | Path) -> str:
    """`model`, or where it is still to be made by a recipe beside this one, the model that it will be made from."""
    recipe_path, seen = Path(recipe_path), set()
    while not os.path.exists(model) and model not in seen:
        seen.add(model)
        made_by = maker(model, recipe_path)
        if made_by is None:
            break
        merged = OmegaConf.merge(*(values for _, values in files.read(made_by)))
        model, recipe_path = OmegaConf.select(merged, "model.path", default=model), made_by
    return model


def _inside(path: str, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _run_dir(recipe_path: Path) -> Path | None:
    """A recipe's run folder, read without its schema; None if that recipe names none or cannot be read."""
    try:
        for _, values in reversed(files.read(recipe_path)):
            run = values.get("run")
            if isinstance(run, dict) and isinstance(run.get("dir"), str):
                return Path(OmegaConf.create({"dir": run["dir"]}).dir)
    except (RecipeError, OmegaConfBaseException):
        return None
    return None
