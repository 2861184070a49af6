"""Turn results into the lines of an evaluation's files: answers, candidates, pairs, texts, conversations."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from engine.scoring.gold import Gold
from engine.scoring.obedience import Obeys
from eval.item_store import Row
from eval.items import Item
from eval.statistics import best_index
from eval.subjects import BestOf, Subject
from eval.system_prompt import Script


@dataclass(frozen=True)
class Findings:
    """Results so far, by subject, reward and set."""

    answers: dict[str, list[Row]] = field(default_factory=dict)
    """subject -> one {"answers": [...]} per item, see eval/answers.py"""
    logprobs: dict[str, list[float]] = field(default_factory=dict)
    """subject -> log π(y | x) in nats of its answer to each item, under the subject itself"""
    reference_logprobs: dict[str, list[float]] = field(default_factory=dict)
    """the same under the reference"""
    scores: dict[str, dict[str, list[list[float | None]]]] = field(default_factory=dict)
    """subject -> reward -> scores (items, answers); None for an answer that has not ended or is too long"""
    pairs: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    """set -> reward -> (chosen, rejected) scores of each comparison"""
    texts: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    """set -> subject -> one {"nll", "tokens", "bytes"} per document, see eval/perplexity.py"""
    conversations: dict[str, list[Row]] = field(default_factory=dict)
    """subject -> one {"answers", "stopped"} per conversation of data.system_prompts, see eval/system_prompt.py"""


def candidates(
    found: Findings, subject: str, kind: Subject, reward: str | None, gold: Gold | None, items: Sequence[Item]
) -> list[list[Row]]:
    """Return each item's answers by one subject, with scores, gold parts and a flag `chosen`.

    Exactly one answer per item is chosen. For a best-of-n subject it is the one with the highest score by its own
    reward, or by `reward` if it names none; an answer without a score (it never ended) ranks last.
    """
    rows = []
    for item, row in zip(items, found.answers[subject], strict=True):
        known = []
        for at, answer in enumerate(row["answers"]):
            scores = {name: by_item[item.number][at] for name, by_item in found.scores.get(subject, {}).items()}
            facts = {"text": answer["text"], "tokens": answer["tokens"], "ended": answer["ended"], "scores": scores}
            known.append(facts | ({"gold": gold(item.record, answer["text"]).as_row()} if gold else {}))
        chosen = (
            best_index([each["scores"][kind.reward or reward] for each in known]) if isinstance(kind, BestOf) else 0
        )
        rows.append([each | {"chosen": at == chosen} for at, each in enumerate(known)])
    return rows


def answer_records(
    found: Findings,
    chosen_from: Mapping[str, Sequence[Sequence[Row]]],
    items: Sequence[Item],
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[Row]:
    """Yield the lines of answers.jsonl: items in order, and for each the subjects in the table's order.

    `chosen_from` has the result of `candidates` for each subject. `tokenizer` decodes the prompts.
    """
    for item in items:
        prompt = tokenizer.decode(item.input_ids, skip_special_tokens=False)
        for subject, by_item in chosen_from.items():
            (answer,) = (each for each in by_item[item.number] if each["chosen"])
            yield {
                "item": item.number,
                "subject": subject,
                "prompt": prompt,
                "messages": item.messages,
                "record": item.record,
                **{name: value for name, value in answer.items() if name != "chosen"},
                "logprob": _at(found.logprobs.get(subject), item.number),
                "reference_logprob": _at(found.reference_logprobs.get(subject), item.number),
            }


def candidate_records(
    chosen_from: Mapping[str, Sequence[Sequence[Row]]], subjects: Mapping[str, Subject]
) -> Iterator[Row]:
    """Yield the lines of candidates.jsonl: all answers of each best-of-n subject."""
    for subject, by_item in chosen_from.items():
        if isinstance(subjects[subject], BestOf):
            for number, known in enumerate(by_item):
                yield {"item": number, "subject": subject, "candidates": known}


def pair_records(found: Findings, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Row]:
    """Yield the lines of pairs.jsonl, one per comparison. `rows` has each set's rows by the main tokenizer."""
    for name, by_reward in found.pairs.items():
        for row, scores in zip(rows[name], zip(*by_reward.values(), strict=True), strict=True):
            yield {
                "set": name,
                "subset": row["subset"],
                "scores": {reward: list(sides) for reward, sides in zip(by_reward, scores, strict=True)},
                "tokens": [len(row["chosen_ids"]), len(row["rejected_ids"])],
            }


def text_records(found: Findings, subjects: Sequence[str]) -> Iterator[Row]:
    """Yield the lines of texts.jsonl, one per document and subject."""
    for name, by_subject in found.texts.items():
        for subject in subjects:
            for number, row in enumerate(by_subject.get(subject, [])):
                yield {"set": name, "item": number, "subject": subject} | {
                    k: row[k] for k in ("nll", "tokens", "bytes")
                }


def conversation_records(
    found: Findings, subjects: Sequence[str], scripts: Sequence[Script], obeys: Obeys | None
) -> Iterator[Row]:
    """Yield the lines of system_prompt.jsonl, one per conversation and subject; `obeys` may be None without scripts."""
    for script in scripts:
        for subject in subjects:
            if subject not in found.conversations:
                continue
            assert obeys is not None
            row = found.conversations[subject][script.number]
            yield {
                "item": script.number,
                "subject": subject,
                "messages": script.messages,
                "record": script.record,
                "answers": [{name: answer[name] for name in ("text", "tokens", "ended")} for answer in row["answers"]],
                "obeyed": [obeys(script.record, answer["text"]) for answer in row["answers"]],
                "stopped": row["stopped"],
            }


def _at(values: Sequence[float] | None, number: int) -> float | None:
    return None if values is None else values[number]
