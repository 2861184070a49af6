"""Check that the optional packages that a recipe needs are installed, before torch is imported.

A field declares the packages that its values need (`setting(..., packages={...})`). Only commands that run the stage
check them, so `make plan` works without them.
"""

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from config.schema import PACKAGES, RecipeError, Section, join, show

# Package, as pip names it -> modules of which one must be installed; by default the module with the package's name.
MODULES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "torch-optimi": ("optimi",),
    "git+https://github.com/pytorch/torchdistx": ("torchdistx",),
}


def check_packages(recipe: Section) -> None:
    """Raise RecipeError for the first value whose package is missing; the message has the command that installs it."""
    for full_key, value, package in needed_packages(recipe):
        modules = MODULES.get(package, (package.replace("-", "_"),))
        if not any(map(_is_installed, modules)):
            raise RecipeError(
                f"{full_key} is {show(value)}, which needs a package that is not installed; install it with "
                f".venv/bin/pip install {package}, or choose another value",
                key=full_key,
            )


def needed_packages(section: Section, key: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield (key, value, package) of every value that needs an optional package."""
    for field in dataclasses.fields(section):
        value, full_key = getattr(section, field.name), join(key, field.name)
        packages = field.metadata.get(PACKAGES, {})
        if isinstance(value, Section):
            yield from needed_packages(value, full_key)
        elif isinstance(value, Mapping):  # `packages` then has one table per name.
            for name, item in value.items():
                yield from _needed_by_value(item, join(full_key, name), packages.get(name, {}))
        else:
            yield from _needed_by_value(value, full_key, packages)


def _is_installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None  # A plain folder with that name, such as wandb/, has no origin.


def _needed_by_value(value: Any, key: str, packages: Mapping[Any, str]) -> Iterator[tuple[str, Any, str]]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str | bool) and item in packages:
            yield key, item, packages[item]
