"""python -m eval.compare FOLDER ...: reward models over several evaluations (of different seeds), with differences.

Each folder holds an evaluation's pairs.jsonl. Accuracies are means over all folders' comparisons, and beside them those
of each folder. A difference is of two models on the same comparisons, its interval from a paired bootstrap over the
comparisons of all folders together; what seeds do to it shows in the differences of the folders, which are given too.
"""

import sys
from collections.abc import Sequence
from itertools import chain, combinations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.errors import RunError
from engine.run import metrics
from eval.statistics import mean, paired_bootstrap

Pair = dict[str, Any]


def compare(folders: Sequence[str]) -> None:
    """Print both tables. Raises RunError where a folder holds no evaluation of comparisons."""
    if not folders:
        raise RunError("no folder given; usage: python -m eval.compare FOLDER [FOLDER ...]")
    runs = []
    for folder in folders:
        runs.append(metrics.read(Path(folder) / "pairs.jsonl"))
        if not runs[-1]:
            raise RunError(f"{folder}: no comparisons in its pairs.jsonl; run make eval with data.pairs")
    console = Console()
    console.print(accuracy_table(runs))
    console.print(difference_table(runs))


def right(pairs: Sequence[Pair], data: str, model: str) -> list[float]:
    """1 for each comparison of a set that the model ranks right, ½ for a tie."""
    scores = [pair["scores"][model] for pair in pairs if pair["data"] == data]
    return [float(chosen > rejected) + 0.5 * float(chosen == rejected) for chosen, rejected in scores]


def sets_and_models(runs: Sequence[Sequence[Pair]]) -> tuple[list[str], list[str]]:
    """Those of the first run, in its order. Raises RunError where another has others."""
    found = [(list(dict.fromkeys(pair["data"] for pair in run)), list(run[0]["scores"])) for run in runs]
    if any(other != found[0] for other in found[1:]):
        raise RunError("the folders were evaluated on other sets or models; give evaluations of one recipe")
    return found[0]


def accuracy_table(runs: Sequence[Sequence[Pair]]) -> Table:
    """A row a model, a column a set: accuracy in percent, then that of every run."""
    sets, models = sets_and_models(runs)
    table = Table("right, %", *sets, title=f"{len(runs)} evaluations: all, and each", title_justify="left")
    for model in models:
        cells = []
        for data in sets:
            each = [right(run, data, model) for run in runs]
            cells.append(f"{100 * mean([*chain(*each)]):.1f} ({', '.join(f'{100 * mean(part):.1f}' for part in each)})")
        table.add_row(model, *cells)
    return table


def difference_table(runs: Sequence[Sequence[Pair]]) -> Table:
    """A row a pair of models: the later less the earlier one, in points, with 95 %, then that of every run."""
    sets, models = sets_and_models(runs)
    table = Table("points", *sets, title="differences, 95 % of the comparisons, and each", title_justify="left")
    for one, other in combinations(models, 2):
        cells = []
        for data in sets:
            each = [
                [b - a for a, b in zip(right(run, data, one), right(run, data, other), strict=True)] for run in runs
            ]
            low, high = paired_bootstrap([*chain(*each)], seed=0)
            parts = ", ".join(f"{100 * mean(part):+.1f}" for part in each)
            cells.append(f"{100 * mean([*chain(*each)]):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] ({parts})")
        table.add_row(f"{other} - {one}", *cells)
    return table


if __name__ == "__main__":
    from engine.run.entry import run

    run(compare, sys.argv[1:])
