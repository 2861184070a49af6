"""From what was recorded to the figures of summary.json; every name is defined by formula in docs/metrics.md.

Pure: samples.jsonl and pairs.jsonl hold all that goes in, so whoever doubts a figure computes it again. What was not
measured has no key.
"""

from typing import Any

from eval.statistics import (
    best_index,
    commonest_opening_share,
    correlation,
    distinct_share,
    mean,
    paired_bootstrap,
    partial_correlation,
    perplexity,
    win_rate,
)
from eval.trust import of_reward_models

Answer = dict[str, Any]
"""text, tokens, ended; score (null if it never ended); gold (parts by name); of PPO's logprob_ppo and logprob_sft"""
Sample = dict[str, Any]
"""prompt, messages, record, and answers: policy -> its answers, the first of which is the one that counts"""
Pair = dict[str, Any]
"""data (which set), scores: model -> [chosen, rejected], and tokens: [chosen, rejected], each with the prompt"""

# Parts of gold that the summary calls by another name.
PART_NAMES = {"correct": "accuracy"}
# What is measured of answers without gold; its parts must be called something else.
MEASURED = (
    *("score", "score_length", "score_length_given_correct", "response_tokens", "without_end", "distinct"),
    *("commonest_opening", "accuracy", "pretrain_ppl"),
)


def summarise(
    samples: list[Sample], pairs: list[Pair], text_losses: dict[str, tuple[float, int]], seed: int
) -> dict[str, Any]:
    """All figures. `text_losses` is model -> (summed negative log-likelihood in nats, predicted tokens)."""
    figures = of_samples(samples, seed) if samples else {}
    return figures | of_pairs(pairs) | of_texts(text_losses)


def of_samples(samples: list[Sample], seed: int) -> dict[str, Any]:
    """Figures of every policy's answers, of PPO against SFT, and by task."""
    figures: dict[str, Any] = {"prompts": len(samples)}
    first = samples[0]["answers"]["sft"]
    if "gold" in first[0]:
        figures["gold_parts"] = [PART_NAMES.get(part, part) for part in first[0]["gold"]]
    if len(first) > 1:
        figures["best_of_n"] = len(first)
    figures |= of_each_policy(samples)
    if "ppo" in samples[0]["answers"]:
        sft, ppo = ([sample["answers"][policy][0] for sample in samples] for policy in ("sft", "ppo"))
        figures |= of_both_policies(sft, ppo, seed)
    if tasks := by_task(samples):
        figures["tasks"] = {task: {"prompts": len(mine)} | of_each_policy(mine) for task, mine in tasks.items()}
    return figures


def of_each_policy(samples: list[Sample]) -> dict[str, float | None]:
    """The figures of `of_answers` for SFT, best of n and PPO, each with its policy behind its name."""
    answers = {policy: [sample["answers"][policy][0] for sample in samples] for policy in samples[0]["answers"]}
    if len(samples[0]["answers"]["sft"]) > 1:
        answers["best_of_n"] = [best_of(sample["answers"]["sft"]) for sample in samples]
    return {
        f"{name}_{policy}": value
        for policy in ("sft", "best_of_n", "ppo")
        if policy in answers
        for name, value in of_answers(answers[policy]).items()
    }


def by_task(samples: list[Sample]) -> dict[str, list[Sample]]:
    """Task -> its samples, the commonest task first; nothing unless every record names its task."""
    names = [sample["record"].get("task") for sample in samples]
    if not all(isinstance(name, str) for name in names):
        return {}
    ordered = sorted(set(names), key=lambda name: (-names.count(name), name))
    return {task: [sample for sample, name in zip(samples, names, strict=True) if name == task] for task in ordered}


def best_of(answers: list[Answer]) -> Answer:
    """The answer that the reward model prefers; one that never ended has no score and is the last choice."""
    return answers[best_index([answer["score"] for answer in answers])]


def of_answers(answers: list[Answer]) -> dict[str, float | None]:
    """Means over one policy's answers: gold's parts, the reward model's score, lengths, sameness."""
    figures: dict[str, float | None] = {}
    if "gold" in answers[0]:
        for part in answers[0]["gold"]:
            figures[PART_NAMES.get(part, part)] = mean([answer["gold"][part] for answer in answers])
    if "score" in answers[0]:
        scored = [answer for answer in answers if answer["score"] is not None]
        scores, tokens = ([answer[name] for answer in scored] for name in ("score", "tokens"))
        figures["score"] = mean(scores) if scores else None
        figures["score_length"] = correlation(scores, tokens)
        if "correct" in answers[0].get("gold", {}):
            correct = [answer["gold"]["correct"] for answer in scored]
            figures["score_length_given_correct"] = partial_correlation(scores, tokens, correct)
    texts = [answer["text"] for answer in answers]
    return figures | {
        "response_tokens": mean([answer["tokens"] for answer in answers]),
        "without_end": mean([not answer["ended"] for answer in answers]),
        "distinct": distinct_share(texts),
        "commonest_opening": commonest_opening_share(texts),
    }


def of_both_policies(sft: list[Answer], ppo: list[Answer], seed: int) -> dict[str, Any]:
    """PPO against SFT on the same prompts: difference in gold with its interval, win rate, KL."""
    figures: dict[str, Any] = {}
    if "gold" in sft[0]:
        before, after = ([answer["gold"]["gold"] for answer in answers] for answers in (sft, ppo))
        differences = [b - a for a, b in zip(before, after, strict=True)]
        figures["gold_ppo_minus_sft"] = mean(differences)
        figures["gold_ppo_minus_sft_ci95"] = list(paired_bootstrap(differences, seed))
        figures["win_rate_ppo_vs_sft"] = win_rate(after, before)
    return figures | {"kl_ppo_ref": mean([answer["logprob_ppo"] - answer["logprob_sft"] for answer in ppo])}


def of_pairs(pairs: list[Pair]) -> dict[str, Any]:
    """Figures of every reward model on each set of comparisons; accuracies of the pipeline's own by their own names."""
    models = of_reward_models(pairs)
    figures: dict[str, Any] = {}
    for data, names in (
        ("pairs", {"pmp": "rm_accuracy_pmp", "rm": "rm_accuracy_rm"}),
        ("correctness_pairs", {"pmp": "rm_accuracy_correctness_pmp", "rm": "rm_accuracy_correctness"}),
    ):
        for model, name in names.items():
            if data in models.get(model, {}):
                figures |= {data: models[model][data]["pairs"], name: models[model][data]["accuracy"]}
    return figures | ({"reward_models": models} if models else {})


def of_texts(losses: dict[str, tuple[float, int]]) -> dict[str, Any]:
    """Perplexity of held-out pretraining text under each model."""
    figures: dict[str, Any] = {}
    for model in ("base", "sft", "ppo"):
        if model in losses:
            nll, tokens = losses[model]
            figures |= {"pretrain_tokens": tokens, f"pretrain_ppl_{model}": perplexity(nll, tokens)}
    return figures
