"""Check that a stage's inputs exist before it starts; the error names the command that makes a missing one."""

import glob
import os
import re
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from config.files import read_layers
from config.schema import STAGES, Recipe, RecipeError
from config.stage import make_target

TINY_RECIPES = Path("recipes/tiny")


def check_inputs(recipe: Recipe, recipe_path: Path) -> None:
    """Raise RecipeError for the first input that is not on this machine."""
    for key, path in recipe.inputs():
        if not os.path.exists(path) and not glob.glob(path, recursive=True):
            raise RecipeError(f"{key}: {missing_input(path, recipe_path)}", key=key)


def missing_input(path: str, recipe_path: Path) -> str:
    """Return an error message about an input that does not exist, with the command that makes it if that is known.

    The command is known if the path is in the tiny world, or in the run folder of a recipe in the same folder as
    `recipe_path`.
    """
    tiny = Path(os.environ.get("TINY", "runs/tiny"))
    seed = re.fullmatch(r"tiny-(\d+)", tiny.name)
    again = f" SEED={seed[1]}" if seed else ""
    if _inside(path, tiny / "world"):
        return f"{path} does not exist; make it with: make world{again}"
    if path.startswith("~"):
        return f"{path} does not exist: ~ is not expanded in recipes; write {os.path.expanduser(path)}"
    made_by = producing_recipe(path, recipe_path)
    if made_by is None:
        return f"{path} does not exist; name a file or folder that does, or the id of one on the hub (owner/name)"
    of_tiny = made_by.parent.resolve() == TINY_RECIPES.resolve()
    way = again if of_tiny else f" RECIPE={made_by}{_variables(made_by)}"
    stage = _text_value(made_by, "stage") or ""  # never empty: `producing_recipe` asks for recipes of some stages
    return f"{path} does not exist; make it with: make {make_target(stage, made_by.stem)}{way}"


def producing_recipe(path: str, recipe_path: Path) -> Path | None:
    """Return the recipe in the folder of `recipe_path` whose run folder contains `path`; None if there is none."""
    siblings = (sibling for sibling in sorted(recipe_path.parent.glob("*.yaml")) if _has_outputs(sibling))
    folders = {Path(folder): sibling for sibling in siblings if (folder := _text_value(sibling, "run.dir")) is not None}
    within = [folder for folder in folders if _inside(path, folder)]
    return folders[max(within, key=lambda folder: len(folder.parts))] if within else None


def model_origin(model: str, recipe_path: str | Path) -> str:
    """Return `model`, or the model that its training starts from if another recipe has yet to train it."""
    recipe_path, seen = Path(recipe_path), set()
    while not os.path.exists(model) and model not in seen:
        seen.add(model)
        made_by = producing_recipe(model, recipe_path)
        if made_by is None:
            break
        model, recipe_path = _text_value(made_by, "model.path") or model, made_by
    return model


def _variables(recipe_path: Path) -> str:
    """Return the environment variables that a recipe reads, as arguments of make: those that are set or mandatory."""
    found = dict(re.findall(r"\$\{oc\.env:(\w+)([,}])", recipe_path.read_text(encoding="utf-8")))
    given = {
        name: os.environ.get(name, "FOLDER" if end == "}" else None) for name, end in found.items() if name != "TINY"
    }
    return "".join(f" {name}={value}" for name, value in given.items() if value is not None)


def _inside(path: str, folder: Path) -> bool:
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))


def _has_outputs(recipe_path: Path) -> bool:
    """Return whether other stages read the outputs of this recipe's run; those of an evaluation are not read."""
    return _text_value(recipe_path, "stage") in set(STAGES) - {"eval"}


def _text_value(recipe_path: Path, key: str) -> str | None:
    """Return the text at a dotted key of a recipe, without a schema; None if it is missing or cannot be read."""
    try:
        value = OmegaConf.select(OmegaConf.merge(*(values for _, values in read_layers(recipe_path))), key)
    except (RecipeError, OmegaConfBaseException):
        return None
    return value if isinstance(value, str) else None
