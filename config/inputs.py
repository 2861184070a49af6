"""Inputs of a stage must exist before it starts; if one does not, the error names the command that makes it."""

import glob
import os
import re
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from config.files import read
from config.schema import STAGES, Recipe, RecipeError
from config.stage import target

TINY_RECIPES = Path("recipes/tiny")


def check_inputs(recipe: Recipe, recipe_path: Path) -> None:
    """Raise RecipeError for the first input that is not on this machine."""
    for key, path in recipe.inputs():
        if not os.path.exists(path) and not glob.glob(path, recursive=True):
            raise RecipeError(f"{key}: {missing_input(path, recipe_path)}", key=key)


def missing_input(path: str, recipe_path: Path) -> str:
    """Return one line about an input that does not exist, with the command that makes it if that is known.

    It is known if the path lies in the tiny world, or in the run folder of another recipe beside `recipe_path`.
    """
    tiny = Path(os.environ.get("TINY", "runs/tiny"))
    seed = re.fullmatch(r"tiny-(\d+)", tiny.name)
    again = f" SEED={seed[1]}" if seed else ""
    if _inside(path, tiny / "world"):
        return f"{path} does not exist; make it with: make world{again}"
    if path.startswith("~"):
        return f"{path} does not exist: a recipe's ~ is not your home; write {os.path.expanduser(path)}"
    made_by = maker(path, recipe_path)
    if made_by is None:
        return f"{path} does not exist; name a file or folder that does, or the id of one on the hub (owner/name)"
    of_tiny = made_by.parent.resolve() == TINY_RECIPES.resolve()
    way = again if of_tiny else f" RECIPE={made_by}"
    return f"{path} does not exist; make it with: make {target(_given(made_by, 'stage'), made_by.stem)}{way}"


def maker(path: str, recipe_path: Path) -> Path | None:
    """Return the recipe beside `recipe_path` whose run folder contains `path`; None if there is none."""
    siblings = (sibling for sibling in sorted(recipe_path.parent.glob("*.yaml")) if _makes_something(sibling))
    folders = {Path(folder): sibling for sibling in siblings if (folder := _given(sibling, "run.dir")) is not None}
    within = [folder for folder in folders if _inside(path, folder)]
    return folders[max(within, key=lambda folder: len(folder.parts))] if within else None


def model_origin(model: str, recipe_path: str | Path) -> str:
    """Return `model`, or if a recipe beside this one has yet to train it, the model that training starts from."""
    recipe_path, seen = Path(recipe_path), set()
    while not os.path.exists(model) and model not in seen:
        seen.add(model)
        made_by = maker(model, recipe_path)
        if made_by is None:
            break
        model, recipe_path = _given(made_by, "model.path") or model, made_by
    return model


def _inside(path: str, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _makes_something(recipe_path: Path) -> bool:
    """Whether other stages read what this recipe's run leaves: an evaluation only measures."""
    return _given(recipe_path, "stage") in set(STAGES) - {"eval"}


def _given(recipe_path: Path, key: str) -> str | None:
    """Return a text key of a recipe, read without a schema; None if the recipe lacks it or cannot be read."""
    try:
        value = OmegaConf.select(OmegaConf.merge(*(values for _, values in read(recipe_path))), key)
    except (RecipeError, OmegaConfBaseException):
        return None
    return value if isinstance(value, str) else None
