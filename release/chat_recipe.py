"""The sections of a stage's recipe that a chat with its model needs. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from config import RecipeError, load, missing_input
from config.schema import Recipe, Section
from config.sections import Model, Sampling, TrainingRun, model_inputs
from engine.data.chatml_section import ChatML


@dataclass(frozen=True)
class ChatSection(Section):
    model: str | None = None
    """model to chat with: a folder or a hub id; the run's own model by default"""


@dataclass(frozen=True)
class Chat(Recipe):
    chat: ChatSection = field(default_factory=ChatSection)
    model: Model = field(default_factory=Model)
    chatml: ChatML = field(default_factory=ChatML)
    sampling: Sampling = field(default_factory=Sampling)
    run: TrainingRun = field(default_factory=TrainingRun)

    @property
    def model_path(self) -> str:
        """The folder or hub id of the model to chat with."""
        return self.chat.model or str(Path(self.run.dir) / "model")

    @property
    def chat_model(self) -> Model:
        """The `model` section with the path of the model to chat with.

        Its revision is that of the run's base, which the run's own model needs if it is an adapter. It does not apply
        to another model.
        """
        revision = self.model.revision if self.chat.model in (None, self.model.path) else None
        return replace(self.model, path=self.model_path, revision=revision)


def chat_recipe(path: str, overrides: Sequence[str]) -> Chat:
    """Load the sections that a chat needs. Raises RecipeError for a bad recipe, or if the model is not trained yet."""
    recipe = load(Chat, path, overrides, other_sections=True)
    for _, model in model_inputs(recipe.model_path, "chat.model"):
        if not Path(model).exists():
            raise RecipeError(missing_input(model, Path(path)))
    return recipe
