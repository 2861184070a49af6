"""Optional packages that a recipe's values need, checked before torch is imported.

A field declares them beside its values (`setting(..., packages={...})`). They are looked for by the commands that run
a stage, not by those that only read its recipe: a run can be planned where it could not run.
"""

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from config.schema import PACKAGES, RecipeError, Section, join, show

# Package, as pip names it -> the modules of which one has to be there, where that is not its own name.
MODULES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "torch-optimi": ("optimi",),
    "git+https://github.com/pytorch/torchdistx": ("torchdistx",),
}


def check_packages(section: Section, key: str = "") -> None:
    """Raise RecipeError for the first value whose package is not installed, with the command that installs it."""
    for full_key, value, package in needed(section, key):
        modules = MODULES.get(package, (package.replace("-", "_"),))
        if not any(map(_is_installed, modules)):
            raise RecipeError(
                f"{full_key} is {show(value)}, which needs a package that is not installed; install it with "
                f".venv/bin/pip install {package}, or choose another value",
                key=full_key,
            )


def needed(section: Section, key: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yield (key, value, package) of every value that needs an optional package."""
    for field in dataclasses.fields(section):
        value, full_key = getattr(section, field.name), join(key, field.name)
        packages = field.metadata.get(PACKAGES, {})
        if isinstance(value, Section):
            yield from needed(value, full_key)
        elif isinstance(value, Mapping):  # of which each name has a table of its own
            for name, item in value.items():
                yield from _of(item, join(full_key, name), packages.get(name, {}))
        else:
            yield from _of(value, full_key, packages)


def _is_installed(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None  # a plain folder of that name, as wandb/, has no origin


def _of(value: Any, key: str, packages: Mapping[Any, str]) -> Iterator[tuple[str, Any, str]]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str | bool) and item in packages:
            yield key, item, packages[item]
