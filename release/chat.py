"""python -m release.chat RECIPE.yaml [key=value ...]: talk to the model that a recipe's run has made.

Any stage's recipe will do. Of its sections only `run`, `chatml` and `sampling` count here; the others may stand there.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config import RecipeError, load_part, missing_input
from config.schema import Recipe, Section
from config.sections import ChatML, Run, Sampling, model_inputs

USAGE = "usage: python -m release.chat RECIPE.yaml [key=value ...]"


@dataclass(frozen=True)
class Partner(Section):
    model: str | None = None
    """another model than the run's own: a folder or a hub id"""


@dataclass(frozen=True)
class Chat(Recipe):
    chat: Partner = field(default_factory=Partner)
    chatml: ChatML = field(default_factory=ChatML)
    sampling: Sampling = field(default_factory=Sampling)
    run: Run = field(default_factory=Run)

    @property
    def path(self) -> str:
        """The model that talks."""
        return self.chat.model or str(Path(self.run.dir) / "model")


def chat_recipe(path: str, overrides: Sequence[str]) -> Chat:
    """What of a stage's recipe concerns a chat. Raises RecipeError, also where the model has not been made yet."""
    recipe = load_part(Chat, path, overrides)
    for _, model in model_inputs(recipe.path, "chat.model"):
        if not Path(model).exists():
            raise RecipeError(missing_input(model, Path(path)))
    return recipe


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments[:1] in (["-h"], ["--help"]):
        print(USAGE)
        sys.exit(0)
    try:
        if not arguments or "=" in arguments[0]:
            raise RecipeError(f"no recipe given; {USAGE}")
        recipe = chat_recipe(arguments[0], arguments[1:])
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    # What follows imports torch, and begins only once the recipe is known to be good.
    from engine.run.entry import run
    from release.dialogue import talk

    run(talk, recipe)
