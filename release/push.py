"""`python -m release.push RUN [OWNER/NAME]`: upload the model of a finished run to the hub, with its card."""

import sys
from pathlib import Path

import yaml

from config.sections import HUB_ID
from engine.errors import RunError
from engine.run.entry import run as run_command
from engine.run.folder import FINISHED
from engine.run.hub import push


def main(arguments: list[str]) -> None:
    """Push the model of a run, from the arguments RUN [OWNER/NAME]; the default repository is the recipe's.

    Raises RunError for bad arguments or a run that is not finished.
    """
    if not 1 <= len(arguments) <= 2:
        raise RunError('a run folder is needed: make push ARGS="RUN OWNER/NAME"')
    run = Path(arguments[0])
    if not (run / FINISHED).is_file() or not (run / "model").is_dir():
        raise RunError(f"{run} is not a finished run with a model; name a run folder")
    settings = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["run"]
    repository = arguments[1] if len(arguments) == 2 else settings.get("push_to_hub")
    if not repository or not HUB_ID.fullmatch(repository):
        raise RunError(f'{repository or "no repository"} is not OWNER/NAME; make push ARGS="{run} OWNER/NAME"')
    push(run, repository, settings.get("hub_private", True))


if __name__ == "__main__":
    run_command(main, sys.argv[1:])
