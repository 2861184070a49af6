"""A training conversation of each finetuned model, token by token: which tokens are trained on and which are masked."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerBase

from chatml import IM_START
from config import RecipeError
from config.data import Data, sources
from engine.data.chatml_section import ChatML
from engine.data.encoding import conversations
from engine.data.loss_spans import loss_spans
from engine.data.rows import Limit, RowLoader
from engine.models.tokenizer import decode, load_tokenizer
from eval.run_folders import Stage

# Number of records to read: the first ones may be dropped by the length policy.
MAX_RECORDS_READ = 8


class Piece(NamedTuple):
    """The text of a token, or of several tokens that together encode one character."""

    text: str
    trained: bool
    control: bool


@dataclass(frozen=True)
class Conversation:
    """A training conversation as tokens, or the reason why it cannot be shown."""

    subject: str
    mask: str
    pieces: list[Piece]
    problem: str = ""


def training_conversations(stages: dict[str, Stage]) -> Iterator[Conversation]:
    """Yield the first training conversation of every finetuned model. Models trained on plain text are left out."""
    for name, stage in stages.items():
        mask, model = stage.recipe["chatml"]["mask"], stage.path / "model"
        if not model.is_dir():
            yield Conversation(name, mask, [], f"{model} does not exist; the run has not finished")
            continue
        try:
            shown = first_conversation(stage, load_tokenizer(str(model)))
        except RecipeError as error:  # the data or the model may have been moved
            yield Conversation(name, mask, [], str(error))
            continue
        if any(piece.text == IM_START for piece in shown):
            yield Conversation(name, mask, shown)


def first_conversation(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Return the first conversation that the stage trained on, with its mask and length policy."""
    # A recipe written before a key existed gets the key's default.
    recipe: Any = OmegaConf.merge({"data": asdict(Data()), "chatml": asdict(ChatML())}, stage.recipe)
    source, *_ = sources(stage.recipe["data"]["train"], "data.train")
    loader = RowLoader(recipe.data, recipe.chatml, recipe.run.seed, tokenizer)
    limit = Limit("data.max_length", recipe.data.max_length)
    rows, _ = loader.load(conversations, "train", limit, [replace(source, take=MAX_RECORDS_READ)])
    return token_pieces(rows[0], tokenizer)


def token_pieces(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """Return the tokens of a row, with whether each is trained on and whether it is a control token."""
    shown: list[Piece] = []
    for span in loss_spans(row, tokenizer):
        waiting: list[int] = []
        for token in span.ids:
            waiting.append(token)
            text = decode(tokenizer, waiting)
            # A byte-level token may be part of a character, which alone decodes to the replacement character.
            if not text.endswith("\ufffd"):
                shown.append(Piece(text, span.trained, span.control))
                waiting = []
        if waiting:
            shown.append(Piece(decode(tokenizer, waiting), span.trained, False))
    return shown
