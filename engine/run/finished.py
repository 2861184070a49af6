"""`python -m engine.run.finished RECIPE.yaml [key=value ...]`: exit code 0 if the run is finished, else 75 (try again).

A launcher takes every code but 0 for a failure and may start the run again, so processes whose time is over leave it
with 0; make asks here what became of the run.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from engine.run.folder import FINISHED
from engine.run.limit import OUT_OF_TIME
from recipes.loader import load_part
from recipes.schema import Recipe
from recipes.sections import TrainingRun


@dataclass(frozen=True)
class Whose(Recipe):
    run: TrainingRun = field(default_factory=TrainingRun)


if __name__ == "__main__":
    path, *overrides = sys.argv[1:]
    mine = [override for override in overrides if override.startswith("run")]
    folder = Path(load_part(Whose, path, mine).run.dir)
    sys.exit(0 if (folder / FINISHED).is_file() else OUT_OF_TIME)
