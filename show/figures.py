"""What is counted in records and in the rows that a stage would make of them. Pure; rows are those of
`engine.data.rows`, records those of `show.records`.
"""

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
SHARES = (0.1, 0.5, 0.9, 0.99)
OUTSIDE = "outside turns"
# An answer of fewer words is often a name or a list's last item, which ends in no full stop either.
LONG = 30
# What a sentence breaks off after, if it breaks off after a sign.
OPEN = ",;:({[-–—、，；：（"


def percentiles(values: Sequence[int]) -> dict[str, int]:
    """Least, greatest, and what 10, 50, 90 and 99 % of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    ranks = {f"{share:.0%}": ordered[math.ceil(share * len(ordered)) - 1] for share in SHARES}
    return {"least": ordered[0], **ranks, "most": ordered[-1]}


def sequences(row: Row) -> list[list[int]]:
    """The token ids of a row; of a comparison those of both sides, the chosen one first."""
    return [row["chosen_ids"], row["rejected_ids"]] if "chosen_ids" in row else [row["input_ids"]]


def turns(ids: Sequence[int], control: Control) -> Iterator[tuple[int, int]]:
    """Where each turn begins and ends: from one <|im_start|> to the next. Before the first stands at most a BOS."""
    yield from pairwise([*(at for at, token in enumerate(ids) if token == control.im_start), len(ids)])


def tokens_by_role(rows: Sequence[Row], headers: Mapping[str, Sequence[int]], control: Control) -> Counter[str]:
    """Tokens of the turns of each role, everything around the text included. `headers` are the roles' own tokens,
    with the newline after them; what stands in no turn (a BOS, what cutting left of one, plain text) counts apart."""
    counts: Counter[str] = Counter()
    for row in rows:
        for ids in sequences(row):
            inside = 0
            for start, stop in turns(ids, control):
                text = ids[start + 1 : stop]
                counts[next(role for role, head in headers.items() if text[: len(head)] == head)] += stop - start
                inside += stop - start
            counts[OUTSIDE] += len(ids) - inside
    return +counts


def without_end_token(rows: Sequence[Row], control: Control) -> int:
    """Rows with a turn that is trained on to its last word but not on its <|im_end|>: they teach to go on for ever."""

    def endless(row: Row, start: int, stop: int) -> bool:
        ids, labels = row["input_ids"][start:stop], row["labels"][start:stop]
        trained = [at for at, label in enumerate(labels) if label != IGNORE and at]
        # A ReAct turn may end in a tool's result: trained on up to the result, and rightly without an end.
        return bool(trained) and control.im_end not in labels and ids[trained[-1] + 1 :][:1] in ([], [control.im_end])

    return sum(
        any(endless(row, start, stop) for start, stop in turns(row["input_ids"], control))
        for row in rows
        if "labels" in row
    )


def breaks_off(answer: str) -> bool:
    """Whether a long answer ends in a letter or in a sign that something has to follow.

    A guess, for a person to check: a program or a list may well end so. Answers that were cut off where they were
    generated nearly always do.
    """
    last = answer.rstrip()[-1:]
    open_ended = last in OPEN or unicodedata.category(last)[0] in "LM" if last else False
    return open_ended and len(words(answer)) >= LONG


def chosen_longer(rows: Sequence[Row]) -> tuple[int, int]:
    """Comparisons whose chosen side has more tokens, and those whose rejected side has."""
    pairs = [(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    return sum(chosen > rejected for chosen, rejected in pairs), sum(chosen < rejected for chosen, rejected in pairs)


def equal_sides(records: Sequence[Record]) -> list[int]:
    """Comparisons whose sides say the same."""
    return [i for i, r in enumerate(records) if isinstance(r.held, Pair) and r.held.chosen == r.held.rejected]


def unanswered(records: Sequence[Record]) -> list[int]:
    """Conversations whose last turn is not the assistant's."""
    return [i for i, r in enumerate(records) if r.messages and r.messages[-1].role != "assistant"]
