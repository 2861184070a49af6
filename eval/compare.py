"""python -m eval.compare FOLDER ...: rewards over several evaluations (of different seeds), with differences.

Each folder holds an evaluation's pairs.jsonl. Accuracies are means over the comparisons of all folders, with those of
each folder beside them. A difference is between two rewards on the same comparisons; its interval is a paired bootstrap
over the comparisons of all folders. The differences of each folder show what the seed changes.
"""

import sys
from collections.abc import Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.errors import RunError
from engine.files import jsonl
from eval.statistics import mean, paired_bootstrap

Pair = dict[str, Any]


def compare(folders: Sequence[str]) -> None:
    """Print both tables. Raises RunError for a folder without an evaluation of comparisons."""
    if not folders:
        raise RunError("no folder given; usage: python -m eval.compare FOLDER [FOLDER ...]")
    runs = []
    for folder in folders:
        runs.append(jsonl.read(Path(folder) / "pairs.jsonl"))
        if not runs[-1]:
            raise RunError(f"{folder}: no comparisons in its pairs.jsonl; run make eval with data.comparisons")
    console = Console()
    console.print(accuracy_table(runs))
    console.print(difference_table(runs))


def right(pairs: Sequence[Pair], name: str, reward: str) -> list[float]:
    """For each comparison of a set 1 where the reward prefers the chosen side, ½ for a tie, else 0."""
    scores = [pair["scores"][reward] for pair in pairs if pair["set"] == name]
    return [float(chosen > rejected) + 0.5 * float(chosen == rejected) for chosen, rejected in scores]


def sets_and_rewards(runs: Sequence[Sequence[Pair]]) -> tuple[list[str], list[str]]:
    """Those of the first run, in its order. Raises RunError where another run has others."""
    found = [(list(dict.fromkeys(pair["set"] for pair in run)), list(run[0]["scores"])) for run in runs]
    if any(other != found[0] for other in found[1:]):
        raise RunError("the folders were evaluated on other sets or rewards; give evaluations of one recipe")
    return found[0]


def accuracy_table(runs: Sequence[Sequence[Pair]]) -> Table:
    """A row a reward, a column a set: accuracy in percent, then that of every run."""
    sets, rewards = sets_and_rewards(runs)
    table = Table("right, %", *sets, title=f"{len(runs)} evaluations: all, and each", title_justify="left")
    for reward in rewards:
        cells = []
        for name in sets:
            each = [right(run, name, reward) for run in runs]
            cells.append(f"{100 * mean([*chain(*each)]):.1f} ({', '.join(f'{100 * mean(part):.1f}' for part in each)})")
        table.add_row(reward, *cells)
    return table


def difference_table(runs: Sequence[Sequence[Pair]]) -> Table:
    """A row a pair of rewards: the later minus the earlier one, in points, with 95 %, then that of every run."""
    sets, rewards = sets_and_rewards(runs)
    table = Table("points", *sets, title="differences, 95 % of the comparisons, and each", title_justify="left")
    for one, other in combinations(rewards, 2):
        cells = []
        for name in sets:
            each = [
                [b - a for a, b in zip(right(run, name, one), right(run, name, other), strict=True)] for run in runs
            ]
            low, high = paired_bootstrap([*chain(*each)], seed=0)
            parts = ", ".join(f"{100 * mean(part):+.1f}" for part in each)
            cells.append(f"{100 * mean([*chain(*each)]):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] ({parts})")
        table.add_row(f"{other} - {one}", *cells)
    return table


if __name__ == "__main__":
    from engine.run.entry import run

    run(compare, sys.argv[1:])
