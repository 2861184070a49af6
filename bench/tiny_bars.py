"""What one run of the tiny world is judged by: its figures, read from its evaluations, and the bars for them.

A run is a seed and a thread count; bench/tiny_pooled.py judges all runs together.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.files import jsonl
from engine.run.folder import FINISHED
from eval.gate import Requirement, Verdict, check_figures
from eval.statistics import mean, wins


@dataclass(frozen=True, order=True)
class Run:
    seed: int
    threads: int

    def __str__(self) -> str:
        return f"seed {self.seed}, {self.threads} thread{'s' * (self.threads > 1)}"

    @property
    def name(self) -> str:
        """The run's folder."""
        return f"{self.seed}-{self.threads}"


@dataclass(frozen=True)
class Bar:
    short: str
    """a column's title"""
    title: str
    requirement: Requirement
    """its path is into `Found.figures`"""
    reward: str | None = None
    """the bar is left out where the evaluation has no such reward"""


BARS = (
    Bar("gold", "gold, PPO - SFT", Requirement("differences.ppo.answers.gold.mean", ">=", 0.3)),
    Bar("accuracy", "accuracy, PPO - SFT", Requirement("differences.ppo.answers.accuracy.mean", ">=", -0.02)),
    Bar("KL", "KL of PPO from SFT, nats an answer", Requirement("subjects.ppo.answers.kl_to_reference", "<=", 4.0)),
    Bar("rm", "accuracy of rm on `pairs`", Requirement("rewards.rm.comparisons.pairs.accuracy", ">=", 0.9)),
    Bar(
        "harmless", "accuracy of harmless on `harmless`",
        Requirement("rewards.harmless.comparisons.harmless.accuracy", ">=", 0.9), reward="harmless",
    ),
    Bar("perplexity", "perplexity of held-out text, PPO / SFT", Requirement("run.perplexity", "<", 1.1)),
    Bar("worst task", "accuracy on the worst task, PPO - SFT", Requirement("run.worst_task", ">=", -0.1)),
    Bar("minutes", "minutes of all stages", Requirement("run.minutes", "<=", 10.0)),
)  # fmt: skip

Gold = Mapping[str, float]
"""gold's parts of one answer"""
Tasks = dict[str, list[tuple[Gold, Gold]]]
"""task -> (gold of SFT's answer, gold of PPO's) of each of its prompts"""
Right = dict[str, dict[str, list[float]]]
"""set of comparisons -> reward -> 1 for each comparison that it ranks right, ½ for a tie, 0 for the others"""


@dataclass(frozen=True)
class Found:
    """One finished run."""

    figures: dict[str, Any]
    """summary.json of the evaluation, and under `run` what is computed here: perplexity, worst_task, minutes"""
    tasks: Tasks
    pmp: Right
    """of rewards trained with and without PMP; empty where they were not compared in this run"""
    obeyed: list[tuple[Sequence[float], Sequence[float]]]
    """how far SFT's and PPO's answers obey a system prompt, 0 to 1, turn by turn of each conversation that both
    were asked to the end; [] where the evaluation has no such conversations"""


def read_run(folder: Path, stages: Iterable[str]) -> Found:
    """Read the figures of a finished run; `stages` are the run folders whose time is the run's, beside the world's."""
    summary = _json(folder / "eval" / "summary.json")
    tasks = by_task(jsonl.read(folder / "eval-tasks" / "answers.jsonl"))
    perplexity = {name: summary["subjects"][name]["perplexity"]["pretrain"] for name in ("sft", "ppo")}
    took = [_json(folder / stage / FINISHED)["seconds"] for stage in stages]
    of_run = {
        "perplexity": perplexity["ppo"] / perplexity["sft"],
        "worst_task": min(accuracy_gain(items) for items in tasks.values()),
        "minutes": (_json(folder / "world" / "world.json")["seconds"] + sum(took)) / 60,
    }
    conversations = paired(jsonl.read(folder / "eval" / "system_prompt.jsonl"))
    return Found(
        summary | {"run": of_run},
        tasks,
        ranked_right(jsonl.read(folder / "eval-pmp" / "pairs.jsonl")),
        [(sft["obeyed"], ppo["obeyed"]) for sft, ppo in conversations if sft["stopped"] is ppo["stopped"] is None],
    )


def paired(rows: Iterable[jsonl.Row]) -> list[tuple[jsonl.Row, jsonl.Row]]:
    """(SFT's line, PPO's) of each item, in the lines' order."""
    of = {(row["subject"], row["item"]): row for row in rows}
    return [(row, of["ppo", item]) for (subject, item), row in of.items() if subject == "sft"]


def by_task(answers: Iterable[jsonl.Row]) -> Tasks:
    """Pair SFT's and PPO's answers, the lines of answers.jsonl, by task."""
    tasks: Tasks = {}
    for sft, ppo in paired(answers):
        tasks.setdefault(sft["record"]["task"], []).append((sft["gold"], ppo["gold"]))
    return tasks


def accuracy_gain(items: Sequence[tuple[Gold, Gold]]) -> float:
    """The paired difference in accuracy, PPO - SFT."""
    return mean([ppo["correct"] - sft["correct"] for sft, ppo in items])


def ranked_right(pairs: Iterable[jsonl.Row]) -> Right:
    """Say of each comparison, a line of pairs.jsonl, whether each reward ranks it right."""
    found: Right = {}
    for pair in pairs:
        for reward, (chosen, rejected) in pair["scores"].items():
            found.setdefault(pair["set"], {}).setdefault(reward, []).extend(wins([chosen], [rejected]))
    return found


def run_bars(found: Found) -> dict[Bar, Verdict]:
    """Judge one run. A figure that is null or missing fails."""
    bars = [bar for bar in BARS if bar.reward is None or bar.reward in found.figures["rewards"]]
    return dict(zip(bars, check_figures([bar.requirement for bar in bars], found.figures), strict=True))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
