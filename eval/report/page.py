"""The report: one HTML file about an evaluation, readable without a network, and its plots as PNG files.

It is made of files alone (summary.json, answers.jsonl, pairs.jsonl, and the run folders that the models came from) and
leaves out what is not there, so it can be written at any point of a pipeline. Every figure is summary.json's.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import jinja2

from engine.errors import RunError
from engine.files import durable
from engine.scoring.gold import load_gold
from eval.comparisons import warnings
from eval.figures import decimals
from eval.recipe import Eval
from eval.report.answer_plots import gold_plots, length_plot
from eval.report.conversation import training_conversations
from eval.report.drawing import PALETTE, Plot, style
from eval.report.evaluation_files import EvaluationFiles, read_json
from eval.report.excerpts import excerpts, split
from eval.report.headlines import tiles, verdicts
from eval.report.reward_plots import reward_plots
from eval.report.stage_plots import ppo_plots, training_plots, without_scores
from eval.report.tables import accuracies, figure_grid, pair_grid, subset_grids, task_grids, turn_grid

# Items whose answers are shown.
NUM_EXCERPTS = 12
# Control characters are shown as signs; what overrides the direction of text, or is no UTF-8, as U+FFFD.
VISIBLE = (
    {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
    | {127: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), 0x202D, 0x202E, *range(0xD800, 0xE000)), 0xFFFD)
)


def write_report(recipe: Eval) -> None:
    """Write report.html and plots/*.png into the run folder. Raises RunError if there is nothing to report on."""
    evaluation = EvaluationFiles(recipe)
    folder = evaluation.folder
    if not evaluation.summary and not any(stage.metrics for stage in evaluation.stages.values()):
        raise RunError(f"run.dir={folder}: nothing has been evaluated and nothing trained; run make eval")
    with style():
        groups = {title: plots for title, plots in draw(evaluation).items() if plots}
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in (plot for plots in groups.values() for plot in plots):
        plot.save(folder / "plots")
    durable.write_text(folder / "report.html", template().render(groups=groups, **contents(evaluation)))
    print(f"{folder / 'report.html'}: written")


def draw(evaluation: EvaluationFiles) -> dict[str, list[Plot]]:
    """The plots by section."""
    path = evaluation.recipe.eval.gold
    gold = load_gold(path, "eval.gold") if path else None
    return {
        "Does the reward mean quality?": [*gold_plots(evaluation, gold), *length_plot(evaluation)],
        "Can the rewards be trusted?": list(reward_plots(evaluation)),
        "PPO, step by step": list(ppo_plots(evaluation)),
        "Training": list(training_plots(evaluation)),
    }


def contents(evaluation: EvaluationFiles) -> dict[str, Any]:
    """All that the template shows besides the plots."""
    summary, stages = evaluation.summary, evaluation.stages
    return {
        "folder": evaluation.folder,
        "palette": PALETTE,
        "evaluation": evaluation,
        "summary": summary,
        "facts": facts(evaluation),
        "verdicts": verdicts(summary, [name for name in evaluation.others if evaluation.optimised(name)]),
        "tiles": list(tiles(summary)),
        "figures": figure_grid(summary),
        "pairs": pair_grid(summary),
        "tasks": list(task_grids(summary)),
        "turns": turn_grid(summary),
        "accuracies": list(accuracies(summary)),
        "subsets": list(subset_grids(summary)),
        "without_scores": list(without_scores(evaluation)),
        "warnings": list(warnings(summary.get("rewards", {}))),
        "excerpts": excerpts(evaluation.answers, evaluation.reference, evaluation.compared_by, NUM_EXCERPTS),
        "conversations": list(training_conversations(evaluation.stages_of_kind("sft"))),
        "recipes": recipes(evaluation),
        "seconds": summary.get("seconds") or {name: s.seconds for name, s in stages.items() if s.seconds is not None},
        "data": {name: read_json(path / "data.json") for name, path in folders(evaluation).items()},
        "environment": environment(evaluation),
    }


def facts(evaluation: EvaluationFiles) -> dict[str, str]:
    """What heads the page: when, of what, on what, by which command."""
    found = environment(evaluation)
    items = [(of.get("answers") or {}).get("items") for of in evaluation.summary.get("subjects", {}).values()]
    counts = [count for count in items if count]
    facts = {
        "date": read_json(evaluation.folder / "finished.json").get("at", "")[:16].replace("T", " "),
        "items": f"{max(counts):,}" if counts else "",
        "reference": (evaluation.reference or "") if evaluation.summary.get("differences") else "",
        "seed": str(evaluation.recipe.run.seed),
        "machine": f"{found['processes']} × {found['device']}, {found['platform']}" if found else "",
        "commit": commit(),
        "command": " ".join(found.get("command", [])),
    }
    return {name: fact for name, fact in facts.items() if fact}


def commit() -> str:
    """The commit of the code that writes the report; "" outside of a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def folders(evaluation: EvaluationFiles) -> dict[str, Path]:
    """Every run folder that the report is made of, by name; the evaluation's own last."""
    return {**{name: stage.path for name, stage in evaluation.stages.items()}, "eval": evaluation.folder}


def environment(evaluation: EvaluationFiles) -> dict[str, Any]:
    """What the evaluation ran on; before there is one, what a stage ran on."""
    found = [read_json(path / "environment.json") for path in reversed(folders(evaluation).values())]
    return next(filter(None, found), {})


def recipes(evaluation: EvaluationFiles) -> dict[str, tuple[Path, str]]:
    """name -> (path, text) of every run's resolved recipe."""
    paths = {name: path / "recipe.yaml" for name, path in folders(evaluation).items()}
    return {name: (path, path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def visible(value: Any) -> Any:
    """Text with its control characters as signs. Models can answer anything, also what would hide or break the page."""
    return value.translate(VISIBLE) if isinstance(value, str) and not hasattr(value, "__html__") else value


def template() -> jinja2.Template:
    """The page; whatever is put into it is made visible and escaped."""
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=visible,
    )
    page.filters |= {"split": split, "two": decimals(2), "json": lambda value: json.dumps(value, ensure_ascii=False)}
    return page.get_template("report.html.j2")
