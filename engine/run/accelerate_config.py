"""The accelerate configurations in recipes/accelerate/, selected with HARDWARE=. Does not import torch."""

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
    """Return a configuration as written in its file, without accelerate's defaults."""
    return yaml.safe_load(path_of(name).read_text(encoding="utf-8"))
