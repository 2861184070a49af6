"""Differences between two subjects, paired over the same items, each with a 95 % interval.

    {"answers": {METRIC: DIFFERENCE, "scores": {REWARD: DIFFERENCE}, "win_rates": {REWARD: DIFFERENCE},
                 "win_rate": DIFFERENCE with "by": "gold"|"score"},
     "perplexity": {SET: DIFFERENCE},
     "system_prompt": {METRIC: DIFFERENCE}}

    DIFFERENCE  {"mean", "ci95": [low, high], "n"}, or null with a reason in the `why` beside it

The METRICs of answers are gold, gold's parts, score, tokens and without_end; those of system_prompt are in
eval/obedience.py. Perplexity is compared in bits per byte of the same documents, which works across tokenizers. All
functions are pure and take the lines of answers.jsonl, texts.jsonl and system_prompt.jsonl.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from eval.obedience import obedience_series
from eval.statistics import mean, paired_bootstraps, wins

Row = Mapping[str, Any]
Series = Sequence[float] | str
"""one difference per item, or the reason why there are none"""
# Parts of gold that have another name in the summary.
PART_NAMES = {"total": "gold", "correct": "accuracy"}


def gold_parts(answers: Sequence[Row]) -> dict[str, str]:
    """Return {part of gold: its name in the summary}; empty without a gold scorer."""
    return {part: PART_NAMES.get(part, part) for part in answers[0].get("gold", {})}


def all_differences(
    answers: Mapping[str, Sequence[Row]],
    texts: Mapping[str, Sequence[Row]],
    conversations: Mapping[str, Sequence[Row]],
    reference: str | None,
    reward: str | None,
    seed: int,
) -> dict[str, Any]:
    """Return summary.json's `differences` and `pairs`.

    `differences` has each subject minus the reference, `pairs` the other pairs, as the later minus the earlier subject.
    `answers`, `texts` and `conversations` have each subject's lines, in the table's order. `reward` gives the figure
    `score`. `seed` is that of the bootstrap.
    """
    series: dict[tuple[str, ...], Series] = {}
    for one, other in combinations(answers, 2):
        against = reference in (one, other)
        before, after = (other, one) if other == reference else (one, other)
        path = ("differences", after) if against else ("pairs", f"{before}|{after}")
        if answers[before]:
            found = answer_series(answers[before], answers[after], reward)
            series |= {(*path, "answers", *metric): values for metric, values in found.items()}
        if any(texts.values()):
            sets = list(dict.fromkeys(row["set"] for rows in texts.values() for row in rows))
            found = {(name,): text_series(texts[before], texts[after], name) for name in sets}
            series |= {(*path, "perplexity", *metric): values for metric, values in found.items()}
        if any(conversations.values()):
            obeyed = obedience_series(conversations[before], conversations[after])
            series |= {(*path, "system_prompt", metric): values for metric, values in obeyed.items()}
    return {"differences": {}, "pairs": {}} | difference_tree(series, seed, "gold" if any_gold(answers) else "score")


def answer_series(before: Sequence[Row], after: Sequence[Row], reward: str | None) -> dict[tuple[str, ...], Series]:
    """Return {path of the metric: differences (after minus before) of the items where both subjects have the figure}.

    `before` and `after` are lines of the same items in the same order.
    """
    parts = gold_parts(before)
    found: dict[tuple[str, ...], Series] = {
        (name,): [b["gold"][part] - a["gold"][part] for a, b in zip(before, after, strict=True)]
        for part, name in parts.items()
    }
    if reward is not None:
        for name in before[0]["scores"]:
            a, b = ([row["scores"][name] for row in rows] for rows in (before, after))
            found["scores", name] = known_differences(a, b, "no item has a score for both answers")
            # An answer without a score (it never ended) loses to every answer with one.
            found["win_rates", name] = wins(*([-math.inf if s is None else s for s in each] for each in (b, a)))
        found["score",] = found["scores", reward]
    a, b = ([row["tokens"] for row in rows] for rows in (before, after))
    found["tokens",] = known_differences(a, b, "token counts are not known for both subjects")
    found["without_end",] = [float(a["ended"]) - float(b["ended"]) for a, b in zip(before, after, strict=True)]
    if parts:
        found["win_rate",] = wins(*([row["gold"]["total"] for row in rows] for rows in (after, before)))
    elif reward is not None:
        found["win_rate",] = found["win_rates", reward]
    else:
        found["win_rate",] = "there is neither a gold scorer nor a reward to compare answers by"
    return found


def text_series(before: Sequence[Row], after: Sequence[Row], name: str) -> Series:
    """Return the difference in bits per byte (after minus before) of each document of a set.

    A document's difference in bits is divided by the mean size of a document, not by its own size, so that the mean of
    the series is the difference of the two subjects' bits per byte over the whole set.
    """
    a, b = ([row for row in rows if row["set"] == name] for rows in (before, after))
    if not a or not b:
        return "one of the two subjects has no perplexity"
    size = mean([row["bytes"] for row in a])
    return [(y["nll"] - x["nll"]) / math.log(2) / size for x, y in zip(a, b, strict=True)]


def known_differences(before: Sequence[float | None], after: Sequence[float | None], reason: str) -> Series:
    """Return after - before of the items where both are known; `reason` if there are none."""
    known = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    return known or reason


def any_gold(answers: Mapping[str, Sequence[Row]]) -> bool:
    return any("gold" in row for rows in answers.values() for row in rows[:1])


def difference_tree(series: Mapping[tuple[str, ...], Series], seed: int, win_rate_by: str) -> dict[str, Any]:
    """Return the series as a tree of DIFFERENCEs by path; a reason in place of a series gives null with a `why`."""
    known = {path: values for path, values in series.items() if not isinstance(values, str)}
    intervals = dict(zip(known, paired_bootstraps(list(known.values()), seed), strict=True))
    tree: dict[str, Any] = {}
    for path, values in series.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        if isinstance(values, str):
            node[path[-1]] = None
            node.setdefault("why", {})[path[-1]] = values
            continue
        node[path[-1]] = {"mean": mean(values), "ci95": list(intervals[path]), "n": len(values)}
        if path[-1] == "win_rate":
            node["win_rate"]["by"] = win_rate_by
    return tree
