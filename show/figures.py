"""Statistics of records (`show.records`) and of the rows that a stage makes of them (`engine.data.rows`)."""

import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from chatml import IGNORE, Control, Pair
from show.records import Record
from show.words import words

Row = Mapping[str, Any]
PERCENTILES = (0.1, 0.5, 0.9, 0.99)
OUTSIDE_TURNS = "outside turns"
# Shorter responses are often a name or a list, which do not end with a full stop either.
LONG_ANSWER_WORDS = 30
# Punctuation that must be followed by more text.
OPEN_PUNCTUATION = ",;:({[-–—、，；：（"


def percentiles(values: Sequence[int]) -> dict[str, int]:
    """Return the minimum, the 10th, 50th, 90th and 99th percentile (nearest rank) and the maximum of some values."""
    ordered = sorted(values)
    ranks = {f"{share:.0%}": ordered[math.ceil(share * len(ordered)) - 1] for share in PERCENTILES}
    return {"least": ordered[0], **ranks, "most": ordered[-1]}


def sequences(row: Row) -> list[list[int]]:
    """Return the token sequences of a row; for a comparison, the chosen and the rejected side."""
    return [row["chosen_ids"], row["rejected_ids"]] if "chosen_ids" in row else [row["input_ids"]]


def turn_spans(ids: Sequence[int], control: Control) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of every turn: from one <|im_start|> to the next, or to the end."""
    yield from pairwise([*(at for at, token in enumerate(ids) if token == control.im_start), len(ids)])


def tokens_by_role(rows: Sequence[Row], headers: Mapping[str, Sequence[int]], control: Control) -> Counter[str]:
    """Return role -> number of tokens in its turns, with the control tokens around the text.

    `headers` has the tokens of each role with the newline after it. Tokens outside turns (BOS, the rest of a cut turn,
    plain text) are counted under OUTSIDE_TURNS.
    """
    counts: Counter[str] = Counter()
    for row in rows:
        for ids in sequences(row):
            inside = 0
            for start, stop in turn_spans(ids, control):
                text = ids[start + 1 : stop]
                counts[next(role for role, head in headers.items() if text[: len(head)] == head)] += stop - start
                inside += stop - start
            counts[OUTSIDE_TURNS] += len(ids) - inside
    return +counts


def without_end_token(rows: Sequence[Row], control: Control) -> int:
    """Count rows that train on the end of a turn's text but not on its <|im_end|>: they teach never to stop."""

    def endless(row: Row, start: int, stop: int) -> bool:
        ids, labels = row["input_ids"][start:stop], row["labels"][start:stop]
        trained = [at for at, label in enumerate(labels) if label != IGNORE and at]
        # A ReAct turn may end with a tool result, which is masked; such a turn rightly has no trained <|im_end|>.
        return bool(trained) and control.im_end not in labels and ids[trained[-1] + 1 :][:1] in ([], [control.im_end])

    return sum(
        any(endless(row, start, stop) for start, stop in turn_spans(row["input_ids"], control))
        for row in rows
        if "labels" in row
    )


def looks_cut_off(answer: str) -> bool:
    """Return whether a long response ends with a letter, or with punctuation that must be followed by more text.

    This is a heuristic: programs and lists may end this way too. Responses that were cut off at a token limit nearly
    always do.
    """
    last = answer.rstrip()[-1:]
    open_ended = last in OPEN_PUNCTUATION or unicodedata.category(last)[0] in "LM" if last else False
    return open_ended and len(words(answer)) >= LONG_ANSWER_WORDS


def chosen_longer(rows: Sequence[Row]) -> tuple[int, int]:
    """Return the number of comparisons in which the chosen side has more tokens, and in which the rejected side has."""
    pairs = [(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    return sum(chosen > rejected for chosen, rejected in pairs), sum(chosen < rejected for chosen, rejected in pairs)


def equal_sides(records: Sequence[Record]) -> list[int]:
    """Return the indices of comparisons whose sides are equal."""
    return [i for i, r in enumerate(records) if isinstance(r.content, Pair) and r.content.chosen == r.content.rejected]


def unanswered(records: Sequence[Record]) -> list[int]:
    """Return the indices of conversations whose last message is not the assistant's."""
    return [i for i, r in enumerate(records) if r.messages and r.messages[-1].role != "assistant"]
