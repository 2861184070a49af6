"""One training conversation, token by token: what is read and what is learnt."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from transformers import PreTrainedTokenizerBase

from chatml import IGNORE, control
from config.data import sources
from engine.data.rows import conversation_rows
from eval.stages import Stage

# Records that are looked at for one that is kept.
LOOKED_AT = 8


class Run(NamedTuple):
    """Tokens that follow one another and are shown alike."""

    ids: list[int]
    learnt: bool
    control: bool


class Piece(NamedTuple):
    """A token as it is shown; several where only together they make a character."""

    text: str
    learnt: bool
    control: bool


def first_conversation(stage: Stage, tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """The first conversation that the stage trained on, under its own mask and length policy."""
    recipe = OmegaConf.create(stage.recipe)
    source, *_ = sources(stage.recipe["data"]["train"], "data.train")
    head = replace(source, take=LOOKED_AT)
    rows, _ = conversation_rows([head], recipe, tokenizer, key="data.train", max_length=recipe.data.max_length)
    return pieces(rows[0], tokenizer)


def pieces(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[Piece]:
    """The tokens of a row with what each is to the loss."""
    shown: list[Piece] = []
    for run in runs(row, tokenizer):
        waiting: list[int] = []
        for token in run.ids:
            waiting.append(token)
            text = tokenizer.decode(waiting)
            # A byte-level token can be a part of a character, which decodes to the replacement character.
            if not text.endswith("\ufffd"):
                shown.append(Piece(text, run.learnt, run.control))
                waiting = []
        if waiting:
            shown.append(Piece(tokenizer.decode(waiting), run.learnt, False))
    return shown


def runs(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[Run]:
    """The stretches of a row that are alike to the loss, control tokens apart from text."""
    ids = control(tokenizer)
    special = {ids.im_start, ids.im_end, ids.endoftext, ids.bos}
    tokens = zip(row["input_ids"], row["labels"], strict=True)
    for (learnt, is_control), run in groupby(tokens, key=lambda token: (token[1] != IGNORE, token[0] in special)):
        yield Run([token for token, _ in run], learnt, is_control)
