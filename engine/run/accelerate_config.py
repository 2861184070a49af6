"""The accelerate configurations that HARDWARE= names: the files of recipes/accelerate/. Imports no torch."""

from pathlib import Path
from typing import Any

import yaml

CONFIGURATIONS = Path(__file__).parents[2] / "recipes" / "accelerate"


def names() -> list[str]:
    """Return the names of all configurations, sorted."""
    return sorted(path.stem for path in CONFIGURATIONS.glob("*.yaml"))


def path_of(name: str) -> Path:
    return CONFIGURATIONS / f"{name}.yaml"


def read(name: str) -> dict[str, Any]:
    """Return a configuration as it stands in its file, without accelerate's defaults."""
    return yaml.safe_load(path_of(name).read_text(encoding="utf-8"))
