"""The run folder: whose recipe it holds, whether the run is finished, and what it ran on.

runs/<name>/  recipe.yaml  made_from.json  environment.json  data.json  metrics.jsonl  samples.jsonl
              checkpoint-N/  model/  finished.json
"""

import importlib.metadata
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from config import resolved_yaml
from engine.data.report import Report
from engine.dist.ranks import is_main_process
from engine.errors import AlreadyFinishedError, RunError
from engine.files import durable

Rows = TypeVar("Rows")
FINISHED = "finished.json"
# Where a run lies, how long it may take at a time, and where its model goes.
ELSEWHERE = ("run.dir", "run.max_hours", "run.local_dir", "run.push_to_hub", "run.hub_private")
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "omegaconf")


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
    """Dotted keys in which two recipes differ, but for those that are no part of what a run is."""
    old, new = (flatten(OmegaConf.to_container(OmegaConf.create(text))) for text in (old_yaml, new_yaml))
    missing = object()
    return sorted(key for key in old.keys() | new.keys() if old.get(key, missing) != new.get(key, missing)
                  and key not in ELSEWHERE)  # fmt: skip


def made_from(recipe: Any) -> dict[str, str]:
    """Input -> when the run that left it was finished, of those inputs that are a run's models."""
    marks = ((path, Path(path).parent / FINISHED) for _, path in recipe.inputs())
    return {path: json.loads(mark.read_text(encoding="utf-8")).get("at", "") for path, mark in marks if mark.is_file()}


class RunFolder:
    """A run's folder, opened for this recipe.

    Raises AlreadyFinishedError if the run is finished, RunError if the folder holds a run of another recipe, or one
    that began from models which have been made anew since. What is `repeatable` is done again then.
    """

    def __init__(self, recipe: Any, *, repeatable: bool = False):
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
        models, origins = made_from(recipe), self.path / "made_from.json"
        began_from = json.loads(origins.read_text(encoding="utf-8")) if origins.exists() else models
        anew = [path for path, at in models.items() if began_from.get(path) != at]
        if anew and not repeatable:
            raise RunError(
                f"run.dir={self.path} began from {anew[0]}, which has been made anew since; "
                f"move {self.path} away, or name another run.dir"
            )
        if self.finished.exists() and not anew:
            raise AlreadyFinishedError(f"{self.path}: finished already; nothing to do")
        if is_main_process():
            try:
                durable.write_text(written, text)
                self.finished.unlink(missing_ok=True)  # first, so that no process takes it for its own
                durable.write_json(origins, models)
                durable.write_json(self.path / "environment.json", environment())
            except OSError as error:
                raise RunError(f"run.dir={self.path}: cannot be written ({error.strerror})") from None

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def finished(self) -> Path:
        return self.path / FINISHED

    def keep_report(self, name: str, rows: Rows, report: Report) -> Rows:
        """Print what was kept, cut and dropped of a data key, note it in data.json, and pass the rows on."""
        if is_main_process():
            print(report.text(name), flush=True)
            self._data[name] = report.as_dict()
            durable.write_json(self.path / "data.json", self._data)
        return rows

    def finish(self, steps: int, seconds: float, unit: str = "steps") -> None:
        """Mark the run as finished, last of all that it writes."""
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        durable.write_json(self.finished, {unit: steps, "seconds": round(seconds, 1), "at": at})
        print(f"{self.path}: finished, {steps:,} {unit}, {seconds:.0f} s", flush=True)


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
