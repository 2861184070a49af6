"""Write the report: one self-contained HTML file about an evaluation, and its plots as PNG files.

The report is made from files alone (summary.json, answers.jsonl, pairs.jsonl and the models' run folders). Sections
without data are left out, so it can be written at any point of a pipeline. All figures come from summary.json.
"""

import json
import shlex
from pathlib import Path
from typing import Any

import jinja2

from engine.errors import RunError
from engine.files import durable
from engine.scoring.gold import load_gold
from eval.comparisons import warnings
from eval.figures import MIN_ITEMS, decimals
from eval.recipe import Eval
from eval.report.answer_plots import gold_plots, length_plot
from eval.report.conversation import training_conversations
from eval.report.drawing import PALETTE, Plot, style
from eval.report.evaluation_files import EvaluationFiles, read_json
from eval.report.excerpts import excerpts, split_at_fold
from eval.report.headlines import tiles, verdicts
from eval.report.reward_plots import reward_plots
from eval.report.runs import describe_run
from eval.report.stage_plots import ppo_plots, training_plots, without_scores
from eval.report.tables import accuracies, figure_grid, pair_grid, subset_grids, task_grids, turn_grid

# Number of items whose answers are shown.
NUM_EXCERPTS = 12
# Control characters are shown as control pictures (U+2400 and up); C1 controls, direction overrides and surrogates as
# U+FFFD.
VISIBLE_CHARACTERS = (
    {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
    | {127: 0x2421}
    | dict.fromkeys((*range(0x80, 0xA0), 0x202D, 0x202E, *range(0xD800, 0xE000)), 0xFFFD)
)


def write_report(recipe: Eval) -> None:
    """Write report.html and plots/*.png into the run folder.

    Raise RunError if nothing has been evaluated; if models have been trained, only after their report is written.
    """
    evaluation = EvaluationFiles(recipe)
    folder = evaluation.folder
    nothing = f"run.dir={folder}: nothing has been evaluated yet; run make eval with the same RECIPE and ARGS"
    if not evaluation.summary and not any(stage.metrics for stage in evaluation.stages.values()):
        raise RunError(nothing)
    with style():
        groups = {title: plots for title, plots in draw(evaluation).items() if plots}
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    for plot in (plot for plots in groups.values() for plot in plots):
        plot.save(folder / "plots")
    durable.write_text(folder / "report.html", template().render(groups=groups, **contents(evaluation)))
    if not evaluation.summary:
        raise RunError(f"{nothing} ({folder / 'report.html'} shows the training runs alone)")
    print(f"{folder / 'report.html'}: written")


def draw(evaluation: EvaluationFiles) -> dict[str, list[Plot]]:
    """Return the plots by section title. Sections without data have an empty list."""
    path = evaluation.recipe.eval.gold
    gold = load_gold(path, "eval.gold") if path else None
    return {
        "Does a higher reward mean better answers?": [*gold_plots(evaluation, gold), *length_plot(evaluation)],
        "How reliable are the rewards?": list(reward_plots(evaluation)),
        "PPO by step": list(ppo_plots(evaluation)),
        "Training": list(training_plots(evaluation)),
    }


def contents(evaluation: EvaluationFiles) -> dict[str, Any]:
    """Return the template's variables, without the plots."""
    summary, stages = evaluation.summary, evaluation.stages
    return {
        "folder": evaluation.folder,
        "palette": PALETTE,
        "min_items": MIN_ITEMS,
        "evaluation": evaluation,
        "summary": summary,
        "facts": facts(evaluation),
        "verdicts": verdicts(summary, {name: evaluation.trained_with(name) for name in evaluation.compared_subjects}),
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
        "runs": [describe_run(name, path) for name, path in folders(evaluation).items()],
        "seconds": summary.get("seconds") or {name: s.seconds for name, s in stages.items() if s.seconds is not None},
        "data": {name: read_json(path / "data.json") for name, path in folders(evaluation).items()},
        "environment": environment(evaluation),
    }


def facts(evaluation: EvaluationFiles) -> dict[str, str]:
    """Return the facts at the top of the page by name (date, items, reference, ...), without empty ones."""
    found = environment(evaluation)
    items = [
        (measures.get("answers") or {}).get("items") for measures in evaluation.summary.get("subjects", {}).values()
    ]
    counts = [count for count in items if count]
    facts = {
        "date": read_json(evaluation.folder / "finished.json").get("at", "")[:16].replace("T", " "),
        "items": f"{max(counts):,}" if counts else "",
        "reference": (evaluation.reference or "") if evaluation.summary.get("differences") else "",
        "seed": str(evaluation.recipe.run.seed),
        "machine": f"{found['processes']} × {found['device']}, {found['platform']}" if found else "",
        "plumbline": found.get("packages", {}).get("plumbline") or "",
        "commit": found.get("commit") or "",
        "command": shlex.join(found.get("command", [])),
    }
    return {name: fact for name, fact in facts.items() if fact}


def folders(evaluation: EvaluationFiles) -> dict[str, Path]:
    """Return {name: run folder} of all runs in the report; the evaluation's own comes last."""
    return {**{name: stage.path for name, stage in evaluation.stages.items()}, "eval": evaluation.folder}


def environment(evaluation: EvaluationFiles) -> dict[str, Any]:
    """Return the environment.json of the evaluation, else that of the last stage that has one, else {}."""
    found = [read_json(path / "environment.json") for path in reversed(folders(evaluation).values())]
    return next(filter(None, found), {})


def make_visible(value: Any) -> Any:
    """Return text with control characters made visible, since an answer could otherwise hide or break the page."""
    return value.translate(VISIBLE_CHARACTERS) if isinstance(value, str) and not hasattr(value, "__html__") else value


def template() -> jinja2.Template:
    """Load the page's template. All values are escaped, and their control characters are made visible."""
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=make_visible,
    )
    page.filters |= {
        "split_at_fold": split_at_fold,
        "two": decimals(2),
        "json": lambda value: json.dumps(value, ensure_ascii=False),
    }
    return page.get_template("report.html.j2")
