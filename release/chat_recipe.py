"""What of a stage's recipe concerns a chat with the model that its run has made. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from config import RecipeError, load, missing_input
from config.schema import Recipe, Section
from config.sections import Model, Sampling, TrainingRun, model_inputs
from engine.data.chatml_section import ChatML


@dataclass(frozen=True)
class Partner(Section):
    model: str | None = None
    """another model than the run's own: a folder or a hub id"""


@dataclass(frozen=True)
class Chat(Recipe):
    chat: Partner = field(default_factory=Partner)
    model: Model = field(default_factory=Model)
    chatml: ChatML = field(default_factory=ChatML)
    sampling: Sampling = field(default_factory=Sampling)
    run: TrainingRun = field(default_factory=TrainingRun)

    @property
    def path(self) -> str:
        """The model to chat with."""
        return self.chat.model or str(Path(self.run.dir) / "model")

    @property
    def partner(self) -> Model:
        """The stage's `model` section with the path of the model to chat with.

        The section's revision belongs to the run's base, which an adapter of the run needs; another model has none.
        """
        revision = self.model.revision if self.chat.model in (None, self.model.path) else None
        return replace(self.model, path=self.path, revision=revision)


def chat_recipe(path: str, overrides: Sequence[str]) -> Chat:
    """Read the sections that concern a chat. Raises RecipeError, also where the model has not been trained yet."""
    recipe = load(Chat, path, overrides, other_sections=True)
    for _, model in model_inputs(recipe.path, "chat.model"):
        if not Path(model).exists():
            raise RecipeError(missing_input(model, Path(path)))
    return recipe
