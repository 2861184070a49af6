"""What a step of PPO reports; every name is defined by formula in docs/metrics.md."""

import json
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ppo.advantages import Reduce, ScoreNormaliser
from ppo.kl import kl_estimate
from ppo.rollout import Judged, Rollout

# Characters of a prompt on the console.
PROMPT_SHOWN = 300


def measure(rollout: Rollout, judged: Judged, normaliser: ScoreNormaliser, reduce: Reduce) -> dict[str, float]:
    """Global means over this step's responses or their tokens, from before its updates."""
    mask, kl = judged.mask, judged.old_logprobs - judged.ref_logprobs
    k2, k3 = (kl_estimate(judged.old_logprobs, judged.ref_logprobs, kind) for kind in ("k2", "k3"))
    difference = judged.engine_difference
    mismatch = 0.0 if difference is None else difference.abs().sum()
    returns = judged.returns[mask]
    error = (judged.returns - judged.old_values)[mask]
    lengths = mask.sum(1).float()
    sums = torch.stack(
        [torch.as_tensor(value, device=mask.device).float() for value in (
            len(mask), mask.sum(), len(judged.raw_scores), judged.raw_scores.sum(), judged.scores.sum(),
            kl.sum(), judged.entropy.sum(), lengths.sum(), returns.sum(), (returns**2).sum(),
            error.sum(), (error**2).sum(), judged.old_values.sum(), k2.sum(), k3.sum(), mismatch,
        )]
    )  # fmt: skip
    (
        responses, tokens, ended, score, normalised, kl_sum, entropy, length, g, g2, e, e2, v, k2_sum, k3_sum,
        mismatched,
    ) = reduce(sums.double()).tolist()  # fmt: skip
    variance = g2 / tokens - (g / tokens) ** 2
    return {
        "score": score / ended if ended else float("nan"),
        "normalised_score": normalised / responses,
        "running_mean": normaliser.mean,
        "kl": kl_sum / responses,
        "kl_k2": k2_sum / responses,
        "kl_k3": k3_sum / responses,
        "entropy": entropy / tokens,
        "response_tokens": length / responses,
        "without_end": 1 - ended / responses,
        "returns": g / tokens,
        "values": v / tokens,
        "explained_variance": 1 - (e2 / tokens - (e / tokens) ** 2) / variance if variance > 0 else float("nan"),
        "responses": responses,
        "tokens": tokens,
        **({} if difference is None else {"engine_mismatch": mismatched / tokens}),
    }


def as_text(samples: list[dict[str, Any]]) -> str:
    """Samples for the console: of a long prompt the end, which the answer follows."""
    lines = []
    for sample in samples:
        prompt = sample["prompt"]
        shown = prompt if len(prompt) <= PROMPT_SHOWN else f"… {prompt[-PROMPT_SHOWN:]}"
        lines.append(f"  score {sample['score']:.3g}, kl {sample['kl']:.3g}")
        lines += [f"  | {line}" for line in f"{shown}{sample['response']}".splitlines()]
    return "\n".join(lines)


def some_samples(
    rollout: Rollout, judged: Judged, tokenizer: PreTrainedTokenizerBase, count: int
) -> list[dict[str, Any]]:
    """The step's first responses, readable, with their score and KL."""
    kl = (judged.old_logprobs - judged.ref_logprobs).sum(1)
    return [
        {
            "record": json.loads(rollout.rows[row]["record"]),
            "prompt": tokenizer.decode(rollout.rows[row]["input_ids"]),
            "response": tokenizer.decode(rollout.responses[row].tokens),
            "score": float(judged.scores[row]),
            "kl": float(kl[row]),
        }
        for row in range(min(count, len(rollout.rows)))
    ]
