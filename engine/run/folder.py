"""The run folder: whose recipe it holds, whether the run is finished, and what it ran on.

runs/<name>/  recipe.yaml  environment.json  data.json  metrics.jsonl  samples.jsonl
              checkpoint-N/  model/  finished.json
"""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from datasets import Dataset
from omegaconf import OmegaConf

from engine.data.report import Report
from engine.run import durable
from recipes import RecipeError, resolved_yaml

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "omegaconf")


class RunError(RecipeError):
    """A mistake of the person's that shows only once the run has begun."""


def first_line(error: Exception) -> str:
    """What another library's error says, for a line of ours."""
    return str(error).strip().split("\n")[0].rstrip(".")


class AlreadyFinishedError(Exception):
    """The folder holds the finished run of this very recipe; there is nothing to do."""


def is_main_process() -> bool:
    """Whether this process is the one that writes (known before any process group exists)."""
    return int(os.environ.get("RANK", "0")) == 0


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        key: leaf
        for name, branch in tree.items()
        for key, leaf in flatten(branch, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def differing_keys(old_yaml: str, new_yaml: str) -> list[str]:
    """Dotted keys in which two recipes differ; where a run lies is no part of what it is."""
    old, new = (flatten(OmegaConf.to_container(OmegaConf.create(text))) for text in (old_yaml, new_yaml))
    missing = object()
    return sorted(key for key in old.keys() | new.keys() if old.get(key, missing) != new.get(key, missing)
                  and key != "run.dir")  # fmt: skip


class RunFolder:
    """A run's folder, opened for this recipe.

    Raises AlreadyFinishedError if the run is finished, RunError if the folder holds a run of another recipe.
    """

    def __init__(self, recipe: Any):
        self.path = Path(recipe.run.dir)
        self._data: dict[str, Any] = {}
        self.recipe = text = resolved_yaml(recipe)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"run.dir={self.path}: cannot be made ({error.strerror}); name another folder") from None
        written = self.path / "recipe.yaml"
        if written.exists():
            keys = differing_keys(written.read_text(encoding="utf-8"), text)
            if keys:
                raise RunError(
                    f"run.dir={self.path} holds a run of another recipe, which differs in {', '.join(keys)}; "
                    f"name another run.dir, or move {written} away with the run it belongs to"
                )
        if self.finished.exists():
            raise AlreadyFinishedError(f"{self.path}: finished already; nothing to do")
        if is_main_process():
            try:
                durable.write_text(written, text)
                durable.write_json(self.path / "environment.json", environment())
            except OSError as error:
                raise RunError(f"run.dir={self.path}: cannot be written ({error.strerror})") from None

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def finished(self) -> Path:
        return self.path / "finished.json"

    def keep_report(self, name: str, rows: Dataset, report: Report) -> Dataset:
        """Print what was kept, cut and dropped of a data key, note it in data.json, and pass the rows on."""
        if is_main_process():
            print(report.text(name), flush=True)
            self._data[name] = report.as_dict()
            durable.write_json(self.path / "data.json", self._data)
        return rows

    def finish(self, steps: int, seconds: float) -> None:
        """Mark the run as finished, last of all that it writes."""
        durable.write_json(self.finished, {"steps": steps, "seconds": round(seconds, 1)})
        print(f"{self.path}: finished, {steps} steps, {seconds:.0f} s", flush=True)


def environment() -> dict[str, Any]:
    """What the run runs on: versions, platform, processors, processes."""
    import torch

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": sys.argv,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "packages": {package: version(package) for package in PACKAGES},
    }
