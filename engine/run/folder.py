"""The run folder: its recipe, the record of its data and environment, and whether the run is finished.

runs/<name>/  recipe.yaml  made_from.json  environment.json  data.json  metrics.jsonl  checkpoint-N/  model/
              finished.json, and files of the stage, such as rollouts.jsonl of PPO
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from config import resolved_yaml
from config.resume import changes
from config.sections import TrainingRun
from config.typed import to_dict
from engine.data.report import Report
from engine.dist.ranks import is_main_process
from engine.errors import AlreadyFinishedError, RunError
from engine.files import durable
from engine.run import checkpoints
from engine.run.best import describe_best
from engine.run.experimental import print_notes
from engine.run.identity import FINISHED, has_begun, made_from, rows_hash

Rows = TypeVar("Rows")
# What a run writes besides recipe.yaml, which identifies the run.
OWN_FILES = ("data.json", "metrics.jsonl", "rollouts.jsonl", "warnings.jsonl", "made_from.json", "environment.json")
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "omegaconf")


class RunFolder:
    """The folder of a recipe's run, created if it does not exist.

    Raises AlreadyFinishedError if the run is finished, RunError if the folder contains a run of another recipe, or one
    whose initial models have been retrained since. A run that failed before its first step has left nothing of value
    and is replaced by any recipe. A recipe that only lengthens a finished run resumes it.

    Args:
        accepts_changes: accept a changed recipe of the same stage and changed inputs, after which the run is no longer
            finished. For evaluations, which store their results item by item.
        inputs: path of an input → a text that changes when the input does; by default the time at which the run that
            produced it finished.
    """

    def __init__(self, recipe: Any, *, accepts_changes: bool = False, inputs: Mapping[str, str] | None = None):
        self.path = Path(recipe.run.dir)
        self.recipe = recipe
        self.recipe_yaml = resolved_yaml(recipe)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"run.dir={self.path}: cannot be created ({error.strerror}); name another folder") from None
        written = self.path / "recipe.yaml"
        begun = has_begun(self.path)
        # The newest checkpoint's recipe counts: recipe.yaml may be that of a longer run that failed before it resumed.
        began = checkpoints.newest(self.path)
        if isinstance(recipe.run, TrainingRun) and not written.exists() and began is None:
            self._refuse_foreign_files()
        source = written if began is None else began / checkpoints.RECIPE_FILE
        before = source.read_text(encoding="utf-8") if source.exists() and begun else self.recipe_yaml
        differing = changes(before, recipe)
        if differing.refused:
            same_stage = to_dict(OmegaConf.create(before)).get("stage") == recipe.stage
            if differing.only_longer and self.finished.exists():
                raise RunError(
                    f"run.dir={self.path} is finished and cannot become longer: {differing}; train its model further "
                    f"in a run of its own: model.path={self.model} run.dir=ANOTHER"
                )
            if not (accepts_changes and same_stage):
                raise RunError(
                    f"run.dir={self.path} contains a run of another recipe, which differs in {differing}; "
                    f"name another run.dir, or move {self.path} away"
                )
        origins = self.path / "made_from.json"
        models = made_from(recipe) if inputs is None else inputs
        started_from = json.loads(origins.read_text(encoding="utf-8")) if origins.exists() and begun else models
        changed = [path for path, at in models.items() if started_from.get(path) != at]
        if changed and not accepts_changes:
            raise RunError(
                f"run.dir={self.path} started from {changed[0]}, which has been retrained since; "
                f"move {self.path} away, or name another run.dir"
            )
        if self.finished.exists() and differing.grown and began is None:
            raise RunError(
                f"run.dir={self.path} is finished, and no checkpoint is left from which a longer run could "
                "resume; restore the last one, or name another run.dir"
            )
        continues = differing.grown or (accepts_changes and (changed or before != self.recipe_yaml))
        if self.finished.exists() and not continues:
            raise AlreadyFinishedError(f"{self.path}: already finished; nothing to do")
        data = self.path / "data.json"
        resumes = data.exists() and begun and not accepts_changes
        self._data: dict[str, Any] = json.loads(data.read_text(encoding="utf-8")) if resumes else {}
        """content of data.json; {} unless the run resumes"""
        print_notes(recipe)
        if is_main_process():
            try:
                if accepts_changes:
                    # Of a run that only becomes longer, Lifecycle.begin removes it.
                    self.finished.unlink(missing_ok=True)
                durable.write_text(written, self.recipe_yaml)
                durable.write_json(origins, models)
                durable.write_json(self.path / "environment.json", environment())
            except OSError as error:
                raise RunError(f"run.dir={self.path}: cannot be written ({error.strerror})") from None

    def _refuse_foreign_files(self) -> None:
        for name in ("model/", "value/", *OWN_FILES):
            if (self.path / name).exists():
                raise RunError(
                    f"run.dir={self.path} contains {name}, which is not from a run and would be overwritten; "
                    "name another run.dir"
                )

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def finished(self) -> Path:
        return self.path / FINISHED

    @property
    def reports(self) -> dict[str, Any]:
        """The reports on the data keys that were loaded, as in data.json (rank 0 only)."""
        return self._data

    def keep_report(self, name: str, rows: Rows, report: Report) -> Rows:
        """Print the report of a data key, write it to data.json with a hash of the rows, and return the rows.

        Raises RunError if the run resumes and was trained on other rows before.
        """
        if is_main_process():
            print(report.text(name), flush=True)
            before, now = self._data.get(name, {}), report.as_dict() | {"hash": rows_hash(rows)}
            if before.get("hash", now["hash"]) != now["hash"]:
                raise RunError(
                    f"data.{name} has changed since {self.path} was started ({before['kept']:,} records kept then, "
                    f"{report.kept:,} now); restore the data, or name another run.dir"
                )
            self._data[name] = now
            durable.write_json(self.path / "data.json", self._data)
        return rows

    def finish(self, steps: int, seconds: float, unit: str = "steps", best: dict[str, Any] | None = None) -> None:
        """Write finished.json, the last file of a run, and print a line.

        `steps` counts `unit`s. `best` describes the checkpoint that the model is from (`Best.as_dict`), if the run
        selects one.
        """
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        chosen = {"best": best} if best else {}
        durable.write_json(self.finished, {unit: steps, "seconds": round(seconds, 1), "at": at, **chosen})
        model = f"; the model is that of {describe_best(best)}" if best else ""
        print(f"{self.path}: finished, {steps:,} {unit}, {seconds:.0f} s{model}", flush=True)


def command() -> list[str]:
    """Return the command line of this process as a user would type it: `python -m STAGE RECIPE ...`."""
    spec = sys.modules["__main__"].__spec__
    started = ["-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]
    return ["python", *started, *sys.argv[1:]]


def environment() -> dict[str, Any]:
    """Return versions, commit, platform, command, device, and the numbers of threads and ranks of this process."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": command(),
        "commit": commit(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "packages": {"plumbline": plumbline_version(), **{package: package_version(package) for package in PACKAGES}},
    }


def plumbline_version() -> str | None:
    """Return plumbline's version, which only pyproject.toml states.

    plumbline usually runs from its source tree without being installed, so the file is read first.
    """
    if PROJECT.exists():
        return tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"]
    return package_version("plumbline")


def commit() -> str | None:
    """Return the commit of this code, with "-dirty" if files have changed since; None outside a git checkout."""
    describe = ["git", "-C", str(PROJECT.parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(describe, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def package_version(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
