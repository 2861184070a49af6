"""Compute summary.json from the lines of an evaluation's files; docs/metrics.md has every formula.

    {"reference": NAME|null, "reward": REWARD|null,
     "subjects":    {NAME: {"answers": FIGURES,
                            "perplexity": {SET: ppl, "tokens": {SET: n}, "bits_per_byte": {SET: x}},
                            "system_prompt": see eval/obedience.py}},
     "differences": {NAME: see eval/differences.py},              NAME minus the reference
     "pairs":       {"A|B": the same, B minus A},                 pairs of subjects without the reference
     "rewards":     {REWARD: {"comparisons": {SET: see eval/comparisons.py}}}}

    FIGURES  items, gold and its parts, score, scores: {REWARD: mean}, score_length, score_length_given_correct,
             tokens, without_end, distinct, commonest_opening, kl_to_reference, tasks: {TASK: FIGURES without tasks}

All functions are pure, so any figure can be recomputed from the files. A measure that was not run has no key. A figure
that a subject cannot have is null, with the reason in the `why` beside it: {METRIC: reason}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.comparisons import reward_figures
from eval.differences import Row, all_differences, gold_parts
from eval.obedience import obedience_figures
from eval.statistics import (
    bits_per_byte,
    commonest_opening_share,
    correlation,
    distinct_share,
    mean,
    partial_correlation,
    perplexity,
)

# Names of figures of answers; a gold scorer must not use them for its parts.
RESERVED_FIGURE_NAMES = (
    *("items", "score", "scores", "score_length", "score_length_given_correct", "tokens", "without_end", "distinct"),
    *("commonest_opening", "kl_to_reference", "accuracy", "tasks", "win_rate", "win_rates", "why"),
)


@dataclass(frozen=True)
class EvaluatedSubjects:
    """The subjects of a summary, and the reasons for figures that a subject cannot have."""

    subjects: Sequence[str]
    """names, in the table's order"""
    reference: str | None = None
    reward: str | None = None
    """name of the reward that gives the figure `score`"""
    why: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """subject -> figure (tokens, kl_to_reference, perplexity or system_prompt) -> reason why it is null"""


def summarise(
    answers: Sequence[Row],
    pairs: Sequence[Row],
    texts: Sequence[Row],
    evaluated: EvaluatedSubjects,
    seed: int,
    conversations: Sequence[Row] = (),
) -> dict[str, Any]:
    """Return summary.json without `seconds`.

    `answers`, `pairs`, `texts` and `conversations` are the lines of answers.jsonl, pairs.jsonl, texts.jsonl and
    system_prompt.jsonl. `seed` is that of the bootstrap.
    """
    answers_of = {name: [row for row in answers if row["subject"] == name] for name in evaluated.subjects}
    texts_of = {name: [row for row in texts if row["subject"] == name] for name in evaluated.subjects}
    conversations_of = {name: [row for row in conversations if row["subject"] == name] for name in evaluated.subjects}
    sets = list(dict.fromkeys(row["set"] for row in texts))
    subjects: dict[str, dict[str, Any]] = {name: {} for name in evaluated.subjects}
    for name, figures in subjects.items():
        why = evaluated.why.get(name, {})
        if answers:
            figures["answers"] = figures_and_tasks(answers_of[name], evaluated.reward, why)
        if texts:
            figures["perplexity"] = perplexity_figures(texts_of[name], sets, why)
        if conversations:
            figures["system_prompt"] = obedience_figures(conversations_of[name], why)
    return {
        "reference": evaluated.reference,
        "reward": evaluated.reward,
        "subjects": subjects,
        **all_differences(answers_of, texts_of, conversations_of, evaluated.reference, evaluated.reward, seed),
        "rewards": reward_figures(pairs),
    }


def figures_and_tasks(answers: Sequence[Row], reward: str | None, why: Mapping[str, str]) -> dict[str, Any]:
    """Return `answer_figures` of one subject, and those of each task if every record has a `task`."""
    figures = answer_figures(answers, reward, why)
    names = [row["record"].get("task") for row in answers]
    if all(isinstance(name, str) for name in names):
        ordered = sorted(set(names), key=lambda name: (-names.count(name), name))
        figures["tasks"] = {
            task: answer_figures([row for row, name in zip(answers, names, strict=True) if name == task], reward, why)
            for task in ordered
        }
    return figures


def answer_figures(answers: Sequence[Row], reward: str | None, why: Mapping[str, str]) -> dict[str, Any]:
    """Return figures of one subject's answers: gold parts, scores, lengths, diversity, KL."""
    figures: dict[str, Any] = {"items": len(answers)}
    reasons: dict[str, str] = {}

    def put(name: str, value: float | None, reason: str) -> None:
        figures[name] = value
        if value is None:
            reasons[name] = reason

    for part, name in gold_parts(answers).items():
        figures[name] = mean([row["gold"][part] for row in answers])
    if reward is not None:
        rewards = list(answers[0]["scores"])
        figures["scores"] = {name: mean_or_none([row["scores"][name] for row in answers]) for name in rewards}
        put("score", figures["scores"][reward], "no answer has a score")
        known = [row for row in answers if row["scores"][reward] is not None and row["tokens"] is not None]
        scores, tokens = [row["scores"][reward] for row in known], [row["tokens"] for row in known]
        too_little = why.get("tokens", "scores or lengths do not vary, or fewer than three answers have both")
        put("score_length", correlation(scores, tokens), too_little)
        if "correct" in gold_parts(answers):
            correct = [row["gold"]["correct"] for row in known]
            put("score_length_given_correct", partial_correlation(scores, tokens, correct), too_little)
    put("tokens", mean_or_none([row["tokens"] for row in answers]), why.get("tokens", "not counted"))
    figures["without_end"] = mean([not row["ended"] for row in answers])
    texts = [row["text"] for row in answers]
    figures |= {"distinct": distinct_share(texts), "commonest_opening": commonest_opening_share(texts)}
    both = [(row["logprob"], row["reference_logprob"]) for row in answers]
    kl = None if any(None in pair for pair in both) else mean([own - reference for own, reference in both])
    put("kl_to_reference", kl, why.get("kl_to_reference", "no log-probabilities"))
    return figures | ({"why": reasons} if reasons else {})


def perplexity_figures(texts: Sequence[Row], sets: Sequence[str], why: Mapping[str, str]) -> dict[str, Any]:
    """Return one subject's perplexity of each set, with the number of predicted tokens and bits per byte."""
    if not texts:
        nothing = dict.fromkeys(sets)
        return nothing | {"tokens": nothing, "bits_per_byte": nothing, "why": dict.fromkeys(sets, why["perplexity"])}
    figures: dict[str, Any] = dict.fromkeys(sets) | {"tokens": {}, "bits_per_byte": {}}
    for name in sets:
        nll, tokens, size = (sum(row[key] for row in texts if row["set"] == name) for key in ("nll", "tokens", "bytes"))
        figures[name] = perplexity(nll, tokens)
        figures["tokens"][name], figures["bits_per_byte"][name] = tokens, bits_per_byte(nll, size)
    return figures


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are not None; None if there are none."""
    known = [value for value in values if value is not None]
    return mean(known) if known else None
