"""The run folder: the recipe it belongs to, whether the run is finished, and what it ran on.

runs/<name>/  recipe.yaml  made_from.json  environment.json  data.json  metrics.jsonl  checkpoint-N/  model/
              finished.json; and files of a stage's own, as rollouts.jsonl of PPO
"""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
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
# Keys that may change when a run resumes: where it is, how long it may take at a time, and where its model goes.
CHANGEABLE_KEYS = ("run.dir", "run.max_hours", "run.local_dir", "run.push_to_hub", "run.hub_private")
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "omegaconf")


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one with dotted keys: {'a': {'b': 1}} -> {'a.b': 1}."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    return {
        key: leaf
        for name, branch in tree.items()
        for key, leaf in flatten(branch, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def differing_keys(old_yaml: str, new_yaml: str) -> list[str]:
    """Return the dotted keys in which two recipes differ, except those that may change when a run resumes.

    Recipes of earlier versions had no `stage`; that alone is no difference.
    """
    old, new = (flatten(OmegaConf.to_container(OmegaConf.create(text))) for text in (old_yaml, new_yaml))
    missing = object()
    differing = {key for key in old.keys() | new.keys() if old.get(key, missing) != new.get(key, missing)}
    return sorted(differing.difference(CHANGEABLE_KEYS, () if "stage" in old else ("stage",)))


def made_from(recipe: Any) -> dict[str, str]:
    """Return input -> when the run that made it finished, of those inputs that are models of runs."""
    marks = ((path, Path(path).parent / FINISHED) for _, path in recipe.inputs())
    return {path: json.loads(mark.read_text(encoding="utf-8")).get("at", "") for path, mark in marks if mark.is_file()}


class RunFolder:
    """A run's folder, opened for this recipe.

    Raises AlreadyFinishedError if the run is finished, RunError if the folder holds a run of another recipe or one that
    started from models which have been trained again since. With `accepts_changes` (an evaluation, which keeps its work
    item by item) a changed recipe of the same stage and changed inputs are no error: the run is not finished then.
    `inputs` is path -> what changes when the input does, by default when the run that made a model was finished.
    """

    def __init__(self, recipe: Any, *, accepts_changes: bool = False, inputs: Mapping[str, str] | None = None):
        self.path = Path(recipe.run.dir)
        self._data: dict[str, Any] = {}
        self.recipe = resolved_yaml(recipe)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"run.dir={self.path}: cannot be made ({error.strerror}); name another folder") from None
        written = self.path / "recipe.yaml"
        before = written.read_text(encoding="utf-8") if written.exists() else self.recipe
        if keys := differing_keys(before, self.recipe):
            same_stage = OmegaConf.create(before).get("stage") == recipe.stage
            if not (accepts_changes and same_stage):
                raise RunError(
                    f"run.dir={self.path} holds a run of another recipe, which differs in {', '.join(keys)}; "
                    f"name another run.dir, or move {written} away with the run it belongs to"
                )
        origins = self.path / "made_from.json"
        models = made_from(recipe) if inputs is None else inputs
        started_from = json.loads(origins.read_text(encoding="utf-8")) if origins.exists() else models
        changed = [path for path, at in models.items() if started_from.get(path) != at]
        if changed and not accepts_changes:
            raise RunError(
                f"run.dir={self.path} started from {changed[0]}, which has been trained again since; "
                f"move {self.path} away, or name another run.dir"
            )
        if self.finished.exists() and not changed and not (accepts_changes and before != self.recipe):
            raise AlreadyFinishedError(f"{self.path}: finished already; nothing to do")
        if is_main_process():
            try:
                durable.write_text(written, self.recipe)
                self.finished.unlink(missing_ok=True)  # first, so that no rank takes it for its own run's
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
        """Print what was kept, cut and dropped of a data key, write it to data.json, and return the rows."""
        if is_main_process():
            print(report.text(name), flush=True)
            self._data[name] = report.as_dict()
            durable.write_json(self.path / "data.json", self._data)
        return rows

    def finish(self, steps: int, seconds: float, unit: str = "steps") -> None:
        """Mark the run as finished; this is the last file that it writes."""
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        durable.write_json(self.finished, {unit: steps, "seconds": round(seconds, 1), "at": at})
        print(f"{self.path}: finished, {steps:,} {unit}, {seconds:.0f} s", flush=True)


def command() -> list[str]:
    """Return the command that this process was started with, as a user would type it: `python -m STAGE RECIPE ...`."""
    spec = sys.modules["__main__"].__spec__
    started = ["-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]
    return ["python", *started, *sys.argv[1:]]


def environment() -> dict[str, Any]:
    """Return what the run runs on: versions, platform, device, threads, ranks."""
    import torch

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": command(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "packages": {package: version(package) for package in PACKAGES},
    }
