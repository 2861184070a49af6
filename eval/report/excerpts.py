"""Answers to look at, side by side: chosen by a fixed rule, so that the bad ones are among them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from eval.report.evaluation_files import Answer

# Characters of an answer or a message that are shown at once; the rest is one click away.
SHOWN_AT_ONCE = 600
# Below every score, and finite because differences are taken: for answers that never ended.
NO_SCORE = -1e9


@dataclass(frozen=True)
class Item:
    """One prompt with the subjects' answers to it, in the table's order."""

    number: int
    """in answers.jsonl"""
    messages: list[dict[str, Any]]
    answers: list[Answer]


@dataclass(frozen=True)
class Excerpts:
    rule: str
    """how the items were chosen, for the reader"""
    items: list[Item]


def excerpts(answers: Sequence[Answer], reference: str | None, compared_by: str | None, count: int) -> Excerpts:
    """`count` items at even distances in the order from the last subject's greatest loss to its greatest gain.

    The gain is against the reference, by gold, else by score (`compared_by`). With one subject the order is by its own
    figure; without any figure it is that of the file.
    """
    items = [Item(group[0]["item"], group[0]["messages"], group) for group in _by_item(answers)]
    if not items or compared_by is None:
        return Excerpts("the first items, in the order of the file", items[:count])
    names = [answer["subject"] for answer in items[0].answers]
    compared = [name for name in names if name != reference]
    subject = compared[-1] if compared else names[0]
    ordered = sorted(items, key=lambda item: _gain(item, subject, reference if compared else None, compared_by))
    last = len(ordered) - 1
    places = sorted({round(i * last / max(1, count - 1)) for i in range(count)})
    ends = (
        f"where {subject} lost most {compared_by} against {reference} to where it gained most"
        if compared
        else f"least to most {compared_by}"
    )
    rule = f"{len(places)} of {len(items):,} items, evenly spaced from {ends}"
    return Excerpts(rule, [ordered[place] for place in places])


def value(answer: Answer, compared_by: str) -> float:
    """Its gold or score; an answer that never ended has no score and stands below every other one."""
    if compared_by == "gold":
        return answer["gold"]["total"]
    return NO_SCORE if answer["score"] is None else answer["score"]


def split(text: str, at_once: int = SHOWN_AT_ONCE) -> tuple[str, str]:
    """What is shown of a text at once, and the rest; cut after a space where there is one in the last tenth."""
    if len(text) <= at_once * 1.2:
        return text, ""
    space = max(text.rfind(" ", at_once * 9 // 10, at_once), text.rfind("\n", at_once * 9 // 10, at_once)) + 1
    return text[: space or at_once], text[space or at_once :]


def _by_item(answers: Sequence[Answer]) -> list[list[Answer]]:
    return [list(group) for _, group in groupby(answers, key=lambda answer: answer["item"])]


def _gain(item: Item, subject: str, reference: str | None, compared_by: str) -> float:
    values = {answer["subject"]: value(answer, compared_by) for answer in item.answers}
    return values[subject] - (values[reference] if reference is not None else 0.0)
