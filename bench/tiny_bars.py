"""The figures of one run of the tiny world, read from its evaluations, and the bars (requirements) they must meet.

A run is a seed and a thread count. bench/tiny_pooled.py judges all runs together.
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
        """The name of the run's folder."""
        return f"{self.seed}-{self.threads}"


@dataclass(frozen=True)
class Bar:
    short: str
    """title of its column"""
    title: str
    requirement: Requirement
    """its path is that of a value in `RunResult.figures`"""
    reward: str | None = None
    """the bar applies only if the evaluation has this reward"""


BARS = (
    Bar("gold", "gold, PPO - SFT", Requirement("differences.ppo.answers.gold.mean", ">=", 0.3)),
    Bar("accuracy", "accuracy, PPO - SFT", Requirement("differences.ppo.answers.accuracy.mean", ">=", -0.02)),
    Bar("KL", "KL of PPO from SFT, nats per response", Requirement("subjects.ppo.answers.kl_to_reference", "<=", 4.0)),
    Bar("rm", "accuracy of rm on `pairs`", Requirement("rewards.rm.comparisons.pairs.accuracy", ">=", 0.9)),
    Bar(
        "harmless",
        "accuracy of harmless on `harmless`",
        Requirement("rewards.harmless.comparisons.harmless.accuracy", ">=", 0.9),
        reward="harmless",
    ),
    Bar("perplexity", "perplexity of held-out text, PPO / SFT", Requirement("run.perplexity", "<", 1.1)),
    Bar("worst task", "accuracy on the worst task, PPO - SFT", Requirement("run.worst_task", ">=", -0.1)),
    Bar("minutes", "minutes of all stages", Requirement("run.minutes", "<=", 10.0)),
)

Gold = Mapping[str, float]
"""the parts of the gold score of one response, by name"""
Tasks = dict[str, list[tuple[Gold, Gold]]]
"""task -> for each of its prompts (gold of SFT's response, gold of PPO's)"""
Rankings = dict[str, dict[str, list[float]]]
"""set of comparisons -> reward -> for each comparison 1 if it is ranked correctly, ½ for a tie, else 0"""


@dataclass(frozen=True)
class RunResult:
    """The results of one finished run."""

    figures: dict[str, Any]
    """summary.json of the evaluation, and under `run` the figures computed here: perplexity, worst_task, minutes"""
    tasks: Tasks
    pmp: Rankings
    """rankings by rewards trained with and without PMP; empty if this run did not compare them"""
    obeyed: list[tuple[Sequence[float], Sequence[float]]]
    """for each conversation that both models completed (SFT's, PPO's): per turn how far the response obeys the system
    prompt, from 0 to 1; [] if the evaluation has no such conversations"""


def read_run(folder: Path, stages: Iterable[str]) -> RunResult:
    """Read the results of a finished run; its minutes are those of the run folders `stages` and of the world."""
    summary = _json(folder / "eval" / "summary.json")
    tasks = answers_by_task(jsonl.read(folder / "eval-tasks" / "answers.jsonl"))
    perplexity = {name: summary["subjects"][name]["perplexity"]["pretrain"] for name in ("sft", "ppo")}
    took = [_json(folder / stage / FINISHED)["seconds"] for stage in stages]
    of_run = {
        "perplexity": perplexity["ppo"] / perplexity["sft"],
        "worst_task": min(accuracy_gain(items) for items in tasks.values()),
        "minutes": (_json(folder / "world" / "world.json")["seconds"] + sum(took)) / 60,
    }
    conversations = pair_rows(jsonl.read(folder / "eval" / "system_prompt.jsonl"))
    return RunResult(
        summary | {"run": of_run},
        tasks,
        read_rankings(jsonl.read(folder / "eval-pmp" / "pairs.jsonl")),
        [(sft["obeyed"], ppo["obeyed"]) for sft, ppo in conversations if sft["stopped"] is ppo["stopped"] is None],
    )


def pair_rows(rows: Iterable[jsonl.Row]) -> list[tuple[jsonl.Row, jsonl.Row]]:
    """Return (SFT's row, PPO's row) of each item, in the order of the rows."""
    of = {(row["subject"], row["item"]): row for row in rows}
    return [(row, of["ppo", item]) for (subject, item), row in of.items() if subject == "sft"]


def answers_by_task(answers: Iterable[jsonl.Row]) -> Tasks:
    """Pair SFT's and PPO's responses by task, from the rows of answers.jsonl."""
    tasks: Tasks = {}
    for sft, ppo in pair_rows(answers):
        tasks.setdefault(sft["record"]["task"], []).append((sft["gold"], ppo["gold"]))
    return tasks


def accuracy_gain(items: Sequence[tuple[Gold, Gold]]) -> float:
    """Return the paired difference in accuracy, PPO - SFT."""
    return mean([ppo["correct"] - sft["correct"] for sft, ppo in items])


def read_rankings(pairs: Iterable[jsonl.Row]) -> Rankings:
    """Return which comparisons each reward ranks correctly, from the rows of pairs.jsonl."""
    found: Rankings = {}
    for pair in pairs:
        for reward, (chosen, rejected) in pair["scores"].items():
            found.setdefault(pair["set"], {}).setdefault(reward, []).extend(wins([chosen], [rejected]))
    return found


def run_bars(found: RunResult) -> dict[Bar, Verdict]:
    """Return the verdict on each bar that applies to the run. A figure that is null or missing fails."""
    bars = [bar for bar in BARS if bar.reward is None or bar.reward in found.figures["rewards"]]
    return dict(zip(bars, check_figures([bar.requirement for bar in bars], found.figures), strict=True))


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
