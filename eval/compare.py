"""python -m eval.compare FOLDER ...: compare rewards over several evaluations, for example of different seeds.

Each folder has an evaluation's pairs.jsonl. Accuracies are means over the comparisons of all folders, followed by the
accuracy in each folder. A difference is between two rewards on the same comparisons. Its interval is a paired bootstrap
that resamples the comparisons of all folders; the differences in each folder show the effect of the seed.
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
    """Print the accuracies and the differences. Raise RunError for a folder without evaluated comparisons."""
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


def correctness(pairs: Sequence[Pair], name: str, reward: str) -> list[float]:
    """Return, per comparison of a set, 1 if the reward prefers the chosen side, ½ for a tie, else 0."""
    scores = [pair["scores"][reward] for pair in pairs if pair["set"] == name]
    return [float(chosen > rejected) + 0.5 * float(chosen == rejected) for chosen, rejected in scores]


def sets_and_rewards(runs: Sequence[Sequence[Pair]]) -> tuple[list[str], list[str]]:
    """Return the sets and rewards of the first run, in its order. Raise RunError if another run has others."""
    found = [(list(dict.fromkeys(pair["set"] for pair in run)), list(run[0]["scores"])) for run in runs]
    if any(other != found[0] for other in found[1:]):
        raise RunError("the folders have different sets or rewards; give evaluations of one recipe")
    return found[0]


def accuracy_table(runs: Sequence[Sequence[Pair]]) -> Table:
    """Return a table with a row per reward and a column per set: accuracy in percent (and that of each run)."""
    sets, rewards = sets_and_rewards(runs)
    table = Table("accuracy, %", *sets, title=f"all {len(runs)} evaluations (each)", title_justify="left")
    for reward in rewards:
        cells = []
        for name in sets:
            each = [correctness(run, name, reward) for run in runs]
            cells.append(f"{100 * mean([*chain(*each)]):.1f} ({', '.join(f'{100 * mean(part):.1f}' for part in each)})")
        table.add_row(reward, *cells)
    return table


def difference_table(runs: Sequence[Sequence[Pair]]) -> Table:
    """Return a table with a row per pair of rewards and a column per set.

    A cell has the later reward's accuracy minus the earlier one's in percentage points, [its 95 % interval], and (the
    difference in each run).
    """
    sets, rewards = sets_and_rewards(runs)
    table = Table("points", *sets, title="differences [95% interval over comparisons] (each)", title_justify="left")
    for one, other in combinations(rewards, 2):
        cells = []
        for name in sets:
            each = [
                [b - a for a, b in zip(correctness(run, name, one), correctness(run, name, other), strict=True)]
                for run in runs
            ]
            low, high = paired_bootstrap([*chain(*each)], seed=0)
            parts = ", ".join(f"{100 * mean(part):+.1f}" for part in each)
            cells.append(f"{100 * mean([*chain(*each)]):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] ({parts})")
        table.add_row(f"{other} - {one}", *cells)
    return table


if __name__ == "__main__":
    from engine.run.entry import run

    run(compare, sys.argv[1:])
