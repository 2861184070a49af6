"""Select items whose answers are shown side by side. A fixed rule covers both the worst and the best changes."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from eval.report.evaluation_files import Answer

# Characters of an answer or a message that are shown before the fold.
CHARACTERS_BEFORE_FOLD = 600
# Stands for the score of an answer that never ended: below every score, but finite, so that differences exist.
NO_SCORE = -1e9


@dataclass(frozen=True)
class Item:
    """One prompt with the subjects' answers to it, in the table's order."""

    number: int
    """the item's number in answers.jsonl"""
    messages: list[dict[str, Any]]
    answers: list[Answer]


@dataclass(frozen=True)
class Excerpts:
    rule: str
    """how the items were selected, shown in the report"""
    items: list[Item]


def excerpts(answers: Sequence[Answer], reference: str | None, compared_by: str | None, count: int) -> Excerpts:
    """Select `count` items, evenly spaced from the last subject's greatest loss to its greatest gain.

    The gain is the difference from the reference in gold or score (`compared_by`). With a single subject, items are
    ordered by its own gold or score. If `compared_by` is None, the first `count` items are selected.
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
        f"{subject}'s greatest loss to its greatest gain in {compared_by} against {reference}"
        if compared
        else f"lowest to highest {compared_by}"
    )
    rule = f"{len(places)} of {len(items):,} items, evenly spaced from {ends}"
    return Excerpts(rule, [ordered[place] for place in places])


def value(answer: Answer, compared_by: str) -> float:
    """Return an answer's gold or score. An answer without a score (it never ended) ranks below all others."""
    if compared_by == "gold":
        return answer["gold"]["total"]
    return NO_SCORE if answer["score"] is None else answer["score"]


def split_at_fold(text: str, at_once: int = CHARACTERS_BEFORE_FOLD) -> tuple[str, str]:
    """Split a text into the part before the fold and the rest.

    The cut is after `at_once` characters, or after the last whitespace in the last tenth before it. A text that is at
    most 20 % longer than `at_once` is not split.
    """
    if len(text) <= at_once * 1.2:
        return text, ""
    space = max(text.rfind(" ", at_once * 9 // 10, at_once), text.rfind("\n", at_once * 9 // 10, at_once)) + 1
    return text[: space or at_once], text[space or at_once :]


def _by_item(answers: Sequence[Answer]) -> list[list[Answer]]:
    return [list(group) for _, group in groupby(answers, key=lambda answer: answer["item"])]


def _gain(item: Item, subject: str, reference: str | None, compared_by: str) -> float:
    values = {answer["subject"]: value(answer, compared_by) for answer in item.answers}
    return values[subject] - (values[reference] if reference is not None else 0.0)
