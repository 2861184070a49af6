"""The report: one HTML file about a whole pipeline, readable without a network, and its plots as PNG files.

It stands on files alone (summary.json, samples.jsonl, and the run folders that the models came from) and leaves out
what is not there, so it can be made at any point of a pipeline.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from config import RecipeError
from engine.errors import RunError
from engine.files import durable
from engine.models.tokenizer import load_tokenizer
from engine.run import metrics
from engine.scoring.gold import load_gold
from eval.conversation import Piece, first_conversation
from eval.drawing import PALETTE, Plot, style
from eval.excerpts import excerpts
from eval.headlines import accuracies, headlines, verdict
from eval.plots import ppo_plots, stage_plots
from eval.quality_plots import gold_plots, length_plot
from eval.recipe import Eval
from eval.stages import Stage, stages
from eval.summary import MEASURED
from eval.table import COLUMNS, columns, lines, task_columns, task_lines
from eval.trust import warnings
from eval.trust_plots import trust_plots

# Prompts whose answers are shown.
SHOWN = 12


@dataclass(frozen=True)
class Conversation:
    """A training conversation as tokens, or why it cannot be shown."""

    mask: str
    pieces: list[Piece]
    problem: str = ""


def write_report(recipe: Eval) -> None:
    """Write report.html and plots/*.png into the run folder. Raises RunError if there is nothing to report on."""
    folder, known = Path(recipe.run.dir), stages(recipe)
    summary = read_json(folder / "summary.json")
    if not summary and not known:
        raise RunError(f"run.dir={folder}: no summary.json, and no model of the recipe has a run folder; run make eval")
    samples, pairs = (metrics.read(folder / f"{name}.jsonl") if summary else [] for name in ("samples", "pairs"))
    with style():
        groups = {title: drawn for title, drawn in draw(recipe, known, samples, pairs, summary).items() if drawn}
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in (plot for drawn in groups.values() for plot in drawn):
        plot.save(folder / "plots")
    tasks = task_lines(summary)
    page = template().render(
        folder=folder,
        palette=PALETTE,
        summary=summary,
        verdict=verdict(summary),
        headlines=list(headlines(summary)),
        columns={column: COLUMNS[column] for column in columns(summary)},
        lines=list(lines(summary)),
        tasks=tasks,
        task_columns=task_columns(tasks),
        names=COLUMNS,
        accuracies=list(accuracies(summary)),
        warnings=list(warnings(summary.get("reward_models", {}))),
        groups=groups,
        excerpts=excerpts(samples, SHOWN),
        conversation=conversation(known["sft"], recipe.eval.sft) if "sft" in known else None,
        stages=known,
        evaluation=Stage("eval", folder),
        seconds=summary.get("seconds") or {name: s.seconds for name, s in known.items() if s.seconds is not None},
        data={name: read_json(path / "data.json") for name, path in folders(folder, known).items()},
        environment=next(
            filter(None, (read_json(p / "environment.json") for p in folders(folder, known).values())), {}
        ),
    )
    durable.write_text(folder / "report.html", page)
    print(f"{folder / 'report.html'}: written")


def draw(
    recipe: Eval,
    known: dict[str, Stage],
    samples: list[dict[str, Any]],
    pairs: list[dict[str, Any]],
    summary: dict[str, Any],
) -> dict[str, list[Plot]]:
    """The plots by section."""
    gold = load_gold(recipe.eval.gold, "eval.gold", MEASURED) if recipe.eval.gold else None
    ppo = known.get("ppo")
    return {
        "Does the reward mean quality?": [
            *gold_plots(samples, summary, ppo, gold),
            *length_plot(samples),
        ],
        "Can the score be trusted?": list(trust_plots(pairs, summary.get("reward_models", {}))),
        "PPO, step by step": list(ppo_plots(ppo)) if ppo else [],
        "Before PPO": list(stage_plots(known)),
    }


def conversation(sft: Stage, model: str) -> Conversation:
    mask = sft.recipe["chatml"]["mask"]
    try:
        return Conversation(mask, first_conversation(sft, load_tokenizer(model)))
    except RecipeError as error:  # the data may lie elsewhere by now
        return Conversation(mask, [], str(error))


def folders(folder: Path, known: dict[str, Stage]) -> dict[str, Path]:
    """Every run folder that the report stands on, by name."""
    return {**{name: stage.path for name, stage in known.items()}, "eval": folder}


def read_json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def template() -> jinja2.Template:
    """The page; whatever is put into it is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.undefined = jinja2.StrictUndefined
    return page.get_template("report.html.j2")
