"""What the stages made, measured on held-out data; what a recipe does not name is left out.

    answers       of PPO and SFT to the same prompts, sampled with the same random numbers; several of SFT for best of n
    KL            of PPO against SFT on PPO's answers, at the sampling temperature
    perplexity    of held-out pretraining text under base, SFT and PPO: what alignment cost
    score         of every finished answer, by the reward model
    accuracy      of preference model, reward model and others on held-out comparisons, and how far to trust it
    gold          parts of every answer, by the scorer that the recipe names

The report has people compare policies (3.3); gold, where there is one, takes their place. One model is in memory at a
time. What is seen goes into samples.jsonl and pairs.jsonl, the figures made of it (eval/summary.py) into summary.json.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedModel

from config.scoring import Scoring
from engine.files import durable
from engine.forward.responses import response_logprobs, sequence_nll
from engine.generation.sampling import Response, sample
from engine.run.console import Steps
from engine.run.folder import RunFolder
from engine.scoring.gold import Gold, load_gold
from eval.bench import BUDGET, Bench, set_up
from eval.recipe import Eval
from eval.stages import seconds_by_stage
from eval.summary import MEASURED, summarise
from eval.table import closing_table

# PPO's steps count from 1: none of its random numbers are drawn again.
STEP = 0


@dataclass(frozen=True)
class Answer:
    response: Response
    known: dict[str, Any]
    """what samples.jsonl says of it; every measure adds to it"""


@dataclass(frozen=True)
class Findings:
    answers: dict[str, list[list[Answer]]] = field(default_factory=dict)
    """policy -> answers to every prompt; the first of each is the one that counts"""
    pair_scores: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    """data key -> reward model -> (chosen, rejected) of every comparison"""
    text_losses: dict[str, tuple[float, int]] = field(default_factory=dict)
    """model -> nats and tokens of all pretraining text"""


def evaluate(recipe: Eval) -> None:
    """Run every measure that the recipe names; write summary.json, samples.jsonl and pairs.jsonl; print a table."""
    began, folder = time.perf_counter(), RunFolder(recipe, repeatable=True)
    gold = load_gold(recipe.eval.gold, "eval.gold", MEASURED) if recipe.eval.gold else None
    bench, found = set_up(recipe, folder), Findings()
    reward_models = bench.reward_models()
    # PPO first: its answers have to be there when SFT, its reference, is asked how likely they are.
    policies = {"ppo": 1, "sft": recipe.eval.best_of_n if "rm" in reward_models else 1}
    policies = {name: count for name, count in policies.items() if getattr(recipe.eval, name) is not None}
    steps = Steps("eval", len(bench.prompts) * sum(policies.values()))
    steps.start()
    try:
        for policy, count in policies.items():
            ask(bench, policy, count, found, steps)
        if recipe.eval.base:
            read_text(bench, "base", bench.policy(recipe.eval.base), found)
        for model, (key, scoring) in reward_models.items():
            score(bench, model, key, scoring, found)
        if gold:
            judge(bench, gold, found)
    finally:
        steps.stop()
    samples, pairs = sample_records(bench, found), pair_records(bench, found)
    summary = summarise(samples, pairs, found.text_losses, recipe.run.seed)
    seconds = round(time.perf_counter() - began, 1)
    summary["seconds"] = seconds_by_stage(recipe) | {"eval": seconds}
    write_lines(folder.path / "samples.jsonl", samples)
    write_lines(folder.path / "pairs.jsonl", pairs)
    durable.write_json(folder.path / "summary.json", summary)
    Console().print(closing_table(summary))
    folder.finish(steps.total, seconds, "answers")


def ask(bench: Bench, policy: str, count: int, found: Findings, steps: Steps) -> None:
    """`count` answers of a policy to every prompt, its log-probabilities of PPO's, and its loss on plain text."""
    model, recipe = bench.policy(getattr(bench.recipe.eval, policy)), bench.recipe
    stops = model.generation_config.eos_token_id
    at_once = recipe.sampling.batch_size
    before = sum(len(group) for groups in found.answers.values() for group in groups)
    answers = found.answers[policy] = []
    for start in range(0, len(bench.prompts), at_once):
        prompts = bench.prompts[start : start + at_once]
        responses = sample(
            model, [row["input_ids"] for row in prompts], recipe.sampling, responses=count, end=bench.end, stops=stops,
            seed=recipe.run.seed, step=STEP, query_ids=range(start, start + len(prompts)),
        )  # fmt: skip
        answers += [[read_answer(bench, response, stops) for response in group] for group in responses]
        lengths = [answer.known["tokens"] for group in answers for answer in group]
        steps.show(before + len(lengths), {f"response_tokens_{policy}": sum(lengths) / len(lengths)})
    if "ppo" in found.answers:
        note_logprobs(bench, policy, model, found)
    read_text(bench, policy, model, found)


def read_answer(bench: Bench, response: Response, stops: list[int]) -> Answer:
    """A response as text, without the token that ended it."""
    tokens = response.tokens
    text = bench.tokenizer.decode(tokens[:-1] if tokens[-1] in stops else tokens)
    return Answer(response, {"text": text, "tokens": len(tokens), "ended": response.ended})


def note_logprobs(bench: Bench, policy: str, model: PreTrainedModel, found: Findings) -> None:
    """log π(y | x) in nats of each of PPO's answers, at the sampling temperature, under one of the policies."""
    answers = [group[0] for group in found.answers["ppo"]]
    prompts, tokens = [row["input_ids"] for row in bench.prompts], [answer.response.tokens for answer in answers]
    flat = response_logprobs(model, prompts, tokens, bench.recipe.sampling.temperature, BUDGET).logprobs
    for answer, part in zip(answers, flat.double().split([len(t) for t in tokens]), strict=True):
        answer.known[f"logprob_{policy}"] = float(part.sum())


def read_text(bench: Bench, name: str, model: PreTrainedModel, found: Findings) -> None:
    """The model's loss on pretraining text."""
    if bench.texts:
        found.text_losses[name] = sequence_nll(model, bench.texts, BUDGET)


def score(bench: Bench, model: str, key: str, scoring: Scoring, found: Findings) -> None:
    """A reward model's scores of both sides of all comparisons; the one that PPO follows also scores the answers."""
    answers = finished_answers(bench, found) if model == "rm" else []
    sides = [row[side] for rows in bench.pairs.values() for row in rows for side in ("chosen_ids", "rejected_ids")]
    records = [*(row["record"] for _, row, _ in answers), *({} for _ in sides)]
    scores = iter(bench.scores(key, scoring, [sequence for _, _, sequence in answers] + sides, records))
    for answer, _, _ in answers:
        answer.known["score"] = next(scores)
    for data, rows in bench.pairs.items():
        found.pair_scores.setdefault(data, {})[model] = [(next(scores), next(scores)) for _ in rows]


def finished_answers(bench: Bench, found: Findings) -> list[tuple[Answer, dict[str, Any], list[int]]]:
    """Every answer that ended, with its prompt's row and the whole sequence; the others are noted to have no score."""
    finished: list[tuple[Answer, dict[str, Any], list[int]]] = []
    for groups in found.answers.values():
        for row, group in zip(bench.prompts, groups, strict=True):
            for answer in group:
                if answer.response.ended:
                    finished.append((answer, row, [*row["input_ids"], *answer.response.tokens]))
                else:
                    answer.known["score"] = None
    return finished


def judge(bench: Bench, gold: Gold, found: Findings) -> None:
    """Gold's parts of every answer."""
    for groups in found.answers.values():
        for row, group in zip(bench.prompts, groups, strict=True):
            for answer in group:
                answer.known["gold"] = gold(row["record"], answer.known["text"])


def sample_records(bench: Bench, found: Findings) -> list[dict[str, Any]]:
    """The lines of samples.jsonl, one a prompt."""
    return [
        {
            "prompt": bench.tokenizer.decode(row["input_ids"]),
            "messages": row["messages"],
            "answers": {
                policy: [answer.known for answer in found.answers[policy][i]]
                for policy in ("sft", "ppo")
                if policy in found.answers
            },
            "record": row["record"],
        }
        for i, row in enumerate(bench.prompts)
    ]


def pair_records(bench: Bench, found: Findings) -> list[dict[str, Any]]:
    """The lines of pairs.jsonl, one a comparison, in the order in which they were read."""
    return [
        {
            "data": key,
            "scores": dict(zip(by_model, scores, strict=True)),
            "tokens": [len(row["chosen_ids"]), len(row["rejected_ids"])],
        }
        for key, by_model in found.pair_scores.items()
        for row, scores in zip(bench.pairs[key], zip(*by_model.values(), strict=True), strict=True)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    durable.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
