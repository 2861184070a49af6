"""What a run folder says of its run: learning rate, throughput, date, version, commit, command."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from eval.report.evaluation_files import read_json
from eval.run_folders import Stage


@dataclass(frozen=True)
class Run:
    """A run as the report's table shows it; "" for what its folder does not say."""

    name: str
    stage: str
    recipe: str
    """text of the resolved recipe"""
    path: Path
    """path of the resolved recipe"""
    command: str
    columns: dict[str, str]
    """cells of the table, by heading"""


def describe_run(name: str, folder: Path) -> Run:
    """Read a run folder. Files that do not exist read as empty."""
    recipe = folder / "recipe.yaml"
    run = Stage(name, folder)
    settings = run.recipe if recipe.exists() else {}
    found, finished = read_json(folder / "environment.json"), read_json(folder / "finished.json")
    rates = [row["tokens_per_second"] for row in run.metrics if row.get("tokens_per_second")]
    steps = finished.get("steps") or max((row.get("step", 0) for row in run.metrics), default=0)
    columns = {
        "steps": f"{steps:,}" if steps else "",
        "learning rate": learning_rate(settings, run.metrics),
        "tokens a second": f"{median(rates):,.0f}" if rates else "",
        "finished": finished.get("at", "")[:16].replace("T", " ") or "no",
        "device": f"{found['processes']} × {found['device']}" if found else "",
        "plumbline": found.get("packages", {}).get("plumbline") or "",
        "commit": found.get("commit") or "",
    }
    text = recipe.read_text(encoding="utf-8") if recipe.exists() else ""
    return Run(name, settings.get("stage", ""), text, recipe, shlex.join(found.get("command", [])), columns)


def learning_rate(recipe: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    """Return the peak learning rates of a run with their schedule: of SFT and reward models, or of PPO's two models."""
    ppo, trainer = recipe.get("ppo") or {}, recipe.get("trainer") or {}
    if "policy_learning_rate" in ppo:
        rates = f"policy {float(ppo['policy_learning_rate']):g}, value {float(ppo['value_learning_rate']):g}"
        return f"{rates}, {ppo['lr_scheduler_type']}"
    peak = float(trainer.get("learning_rate") or max((row.get("learning_rate") or 0 for row in metrics), default=0))
    return f"{peak:g}, {trainer.get('lr_scheduler_type', 'linear')}" if peak else ""
