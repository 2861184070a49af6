"""Group the tokens of a row into spans: trained on or masked, control tokens or text."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from chatml import IGNORE, control


class Span(NamedTuple):
    """Adjacent tokens of a row that are all trained on or all masked, and all control tokens or all text."""

    ids: list[int]
    trained: bool
    control: bool


def loss_spans(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> Iterator[Span]:
    """Yield the spans of a row {"input_ids", "labels"} in order. Each token is in exactly one span."""
    ids = control(tokenizer)
    special = {ids.im_start, ids.im_end, ids.endoftext, ids.bos}
    tokens = zip(row["input_ids"], row["labels"], strict=True)
    for (trained, is_control), span in groupby(tokens, key=lambda token: (token[1] != IGNORE, token[0] in special)):
        yield Span([token for token, _ in span], trained, is_control)
