"""The figures of a summary side by side: which rows there are, how they are called, and the table that closes a run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group
from rich.table import Table

from eval.trust import warnings

COLUMNS = {"base": "base", "sft": "SFT", "best_of_n": "best of n", "ppo": "PPO"}


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def decimals(count: int) -> Callable[[float], str]:
    # Adding 0 turns the -0.0 that rounding leaves into 0.0.
    return lambda value: f"{round(value, count) + 0.0:.{count}f}"


@dataclass(frozen=True)
class Figure:
    name: str
    """in summary.json, before _sft, _ppo and so on"""
    label: str
    meaning: str
    show: Callable[[float], str]


@dataclass(frozen=True)
class Line:
    figure: Figure
    cells: dict[str, str]
    """column -> text, in COLUMNS' order; empty where there is none"""


@dataclass(frozen=True)
class TaskLine:
    task: str
    prompts: int
    cells: dict[tuple[str, str], str]
    """(figure's label, column) -> text"""


GOLD = (
    Figure("gold", "gold score", "how good the answers really are, by a scorer that training never sees", decimals(2)),
    Figure("accuracy", "right answers", "gold's part for being correct", percent),
    Figure("manner", "manner", "gold's part for saying it well", decimals(2)),
)
OTHERS = (
    Figure("score", "reward model's score", "what PPO was trained to raise; of finished answers", decimals(2)),
    Figure("score_length", "score and length", "correlation over finished answers; above 0, length pays", decimals(2)),
    Figure("score_length_given_correct", "correctness aside", "the same, correctness taken out of both", decimals(2)),
    Figure("response_tokens", "tokens an answer", "its end token included", decimals(1)),
    Figure("without_end", "cut off", "answers that ran into the length limit", percent),
    Figure("distinct", "different answers", "texts that differ, among all answers", percent),
    Figure("commonest_opening", "same opening", "answers that begin with the commonest three words", percent),
    Figure("pretrain_ppl", "perplexity of text", "on held-out pretraining text; higher is forgetting", decimals(2)),
)


def lines(summary: dict[str, Any]) -> Iterator[Line]:
    """The figures that a summary holds for each policy; gold's further parts stand after those that are known."""
    known = {figure.name for figure in GOLD}
    names = [name for name in summary.get("gold_parts", []) if name not in known]
    parts = [Figure(name, f"gold: {name}", "a part of the gold score", decimals(2)) for name in names]
    for figure in (*GOLD, *parts, *OTHERS):
        values = {column: summary.get(f"{figure.name}_{column}") for column in COLUMNS}
        if any(value is not None for value in values.values()):
            yield Line(figure, {c: "" if value is None else figure.show(value) for c, value in values.items()})


def columns(summary: dict[str, Any]) -> list[str]:
    """Those of COLUMNS that hold anything."""
    return [column for column in COLUMNS if any(line.cells[column] for line in lines(summary))]


def task_lines(summary: dict[str, Any]) -> list[TaskLine]:
    """Every task's gold score and right answers; without gold, the reward model's score."""
    figures = GOLD[:2] if "gold_sft" in summary else OTHERS[:1]
    return [
        TaskLine(
            task,
            of_task["prompts"],
            {
                (figure.label, column): figure.show(value)
                for figure in figures
                for column in COLUMNS
                if (value := of_task.get(f"{figure.name}_{column}")) is not None
            },
        )
        for task, of_task in summary.get("tasks", {}).items()
    ]


def task_columns(lines: list[TaskLine]) -> list[tuple[str, str]]:
    """(figure's label, column) of all that any task has, in order."""
    return list(dict.fromkeys(cell for line in lines for cell in line.cells))


def closing_table(summary: dict[str, Any]) -> Group:
    """What a person sees at the end of an evaluation."""
    if "prompts" not in summary:
        return Group(reward_table(summary["reward_models"]), *warnings(summary["reward_models"]))
    shown = columns(summary)
    table = Table(title=f"{summary['prompts']:,} held-out prompts", title_justify="left")
    table.add_column("")
    for column in shown:
        table.add_column(COLUMNS[column], justify="right")
    for line in lines(summary):
        table.add_row(line.figure.label, *(line.cells[column] for column in shown))
    models = summary.get("reward_models", {})
    return Group(
        table,
        *by_task(summary),
        *([reward_table(models)] if models else []),
        *remarks(summary),
        *warnings(models),
    )


def by_task(summary: dict[str, Any]) -> Iterator[Table]:
    """A table with a line a task, where the records name tasks."""
    lines = task_lines(summary)
    cells = [cell for cell in task_columns(lines) if cell[1] != "best_of_n"]  # which would not fit; the report has it
    if cells:
        table = Table(title="by task", title_justify="left")
        table.add_column("", no_wrap=True)
        for header in ("prompts", *(f"{figure}, {COLUMNS[column]}" for figure, column in cells)):
            table.add_column(header, justify="right")
        for line in lines:
            table.add_row(line.task, f"{line.prompts:,}", *(line.cells.get(cell, "") for cell in cells))
        yield table


def reward_table(models: dict[str, dict[str, Any]]) -> Table:
    """How often each reward model is right, a row a model and a column a set of comparisons (report, table 4)."""
    sets = list(dict.fromkeys(data for figures in models.values() for data in figures))
    counts = {data: figures[data]["pairs"] for figures in models.values() for data in figures}
    table = Table(title="right on comparisons, half the width of 95%, ECE", title_justify="left")
    table.add_column("")
    for data in sets:
        table.add_column(f"{data} ({counts[data]:,})", justify="right")
    for model, figures in models.items():
        table.add_row(model, *(accuracy_cell(figures[data]) if data in figures else "" for data in sets))
    return table


def accuracy_cell(figures: dict[str, Any]) -> str:
    low, high = figures["accuracy_ci95"]
    return f"{100 * figures['accuracy']:.1f}% ± {50 * (high - low):.1f}, {figures['ece']:.2f}"


def remarks(summary: dict[str, Any]) -> Iterator[str]:
    """What the table's rows cannot say, a sentence each."""
    if "gold_ppo_minus_sft" in summary:
        low, high = summary["gold_ppo_minus_sft_ci95"]
        yield f"gold, PPO - SFT: {summary['gold_ppo_minus_sft']:+.2f}, 95% between {low:+.2f} and {high:+.2f}"
        yield f"PPO's answer is the better one on {percent(summary['win_rate_ppo_vs_sft'])} of prompts, ties half"
    if "kl_ppo_ref" in summary:
        yield f"KL of PPO against SFT: {summary['kl_ppo_ref']:.2f} nats an answer"
