"""Figures of how often the system turn is obeyed, and whether that lasts over several turns.

    {"obeyed", "throughout", "first", "last", "by_turn": [share], "conversations", "turns", "too_long", "unreadable"}

All functions are pure and take the lines of system_prompt.jsonl. docs/metrics.md has the formula of every figure.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from eval.statistics import mean

Line = Mapping[str, Any]
"""one conversation of one subject: `obeyed` has a number from 0 to 1 per answer; `stopped` is null, or the reason why
the conversation stopped early"""
TOO_LONG, UNREADABLE = "too_long", "unreadable"
COMPARED = ("obeyed", "throughout", "first", "last")
FIGURES = (*COMPARED, "by_turn", "conversations", "turns", TOO_LONG, UNREADABLE)


def obedience_figures(lines: Sequence[Line], why: Mapping[str, str]) -> dict[str, Any]:
    """Return one subject's figures. Without lines all are null, with the reason in `why["system_prompt"]`."""
    if not lines:
        return dict.fromkeys(FIGURES) | {"why": dict.fromkeys(FIGURES, why["system_prompt"])}
    begun = [line["obeyed"] for line in lines if line["obeyed"]]
    whole = [line["obeyed"] for line in lines if line["stopped"] is None]
    turns = [value for values in begun for value in values]
    figures: dict[str, Any] = {
        "obeyed": mean(turns) if begun else None,
        "throughout": mean([_throughout(values) for values in whole]) if whole else None,
        "first": mean([values[0] for values in begun]) if begun else None,
        "last": mean([values[-1] for values in whole]) if whole else None,
        "by_turn": [
            mean([values[turn] for values in begun if turn < len(values)])
            for turn in range(max(map(len, begun), default=0))
        ],
        "conversations": len(lines),
        "turns": len(turns),
        TOO_LONG: sum(line["stopped"] == TOO_LONG for line in lines),
        UNREADABLE: sum(line["stopped"] == UNREADABLE for line in lines),
    }
    missing = [name for name in COMPARED if figures[name] is None]
    reason = "no conversation was completed" if begun else "no conversation got an answer to its first turn"
    return figures | ({"why": dict.fromkeys(missing, reason)} if missing else {})


def obedience_series(before: Sequence[Line], after: Sequence[Line]) -> dict[str, Sequence[float] | str]:
    """Return {metric: differences, one per conversation (after minus before), or the reason why there are none}.

    `before` and `after` are lines of the same conversations in the same order. `first` and `obeyed` use the turns that
    both subjects answered. For `obeyed`, the sum of a conversation's differences over these turns is divided by the
    mean number of turns per conversation, so that the mean of the series is the mean over all turns. `last` and
    `throughout` use the conversations that both subjects completed.
    """
    if not before or not after:
        return dict.fromkeys(COMPARED, "one of the two subjects has no conversations")
    paired = list(zip(before, after, strict=True))
    begun = [_answered_by_both(a["obeyed"], b["obeyed"]) for a, b in paired if a["obeyed"] and b["obeyed"]]
    whole = [(a["obeyed"], b["obeyed"]) for a, b in paired if a["stopped"] is b["stopped"] is None]
    turns = mean([len(a) for a, _ in begun]) if begun else 0
    found = {
        "obeyed": [(math.fsum(b) - math.fsum(a)) / turns for a, b in begun],
        "throughout": [_throughout(b) - _throughout(a) for a, b in whole],
        "first": [b[0] - a[0] for a, b in begun],
        "last": [b[-1] - a[-1] for a, b in whole],
    }
    return {name: values or "no conversation has this figure for both subjects" for name, values in found.items()}


def _throughout(values: Sequence[float]) -> float:
    return float(all(value == 1 for value in values))


def _answered_by_both(before: Sequence[float], after: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    count = min(len(before), len(after))
    return before[:count], after[:count]
