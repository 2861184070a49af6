"""What a step of PPO reports; every name is defined by formula in docs/metrics.md."""

from typing import Any

from transformers import PreTrainedTokenizerBase

from ppo.advantages import ScoreNormaliser
from ppo.kl import kl_estimate
from ppo.rollout import Judged, Rollout

# Characters of a prompt on the console.
PROMPT_SHOWN = 300


def measure(judged: Judged, normaliser: ScoreNormaliser) -> dict[str, float]:
    """Means over this step's responses or their tokens, from before its updates."""
    mask, responses = judged.mask, len(judged.mask)
    kl = (judged.old_logprobs - judged.ref_logprobs).double()
    k2, k3 = (kl_estimate(judged.old_logprobs, judged.ref_logprobs, kind).double() for kind in ("k2", "k3"))
    returns, values = judged.returns[mask].double(), judged.old_values[mask].double()
    variance, difference = returns.var(correction=0), judged.engine_difference
    measured = {
        "score": judged.raw_scores.double().mean(),  # not a number where no answer has ended
        "normalised_score": judged.scores.double().mean(),
        "running_mean": normaliser.mean,
        "kl": kl.sum() / responses,
        "kl_k2": k2.sum() / responses,
        "kl_k3": k3.sum() / responses,
        "entropy": judged.entropy[mask].double().mean(),
        "response_tokens": mask.sum() / responses,
        "without_end": 1 - len(judged.raw_scores) / responses,
        "returns": returns.mean(),
        "values": values.mean(),
        "explained_variance": 1 - (returns - values).var(correction=0) / variance if variance > 0 else float("nan"),
        "responses": responses,
        "tokens": mask.sum(),
    }
    if difference is not None:
        measured["engine_mismatch"] = difference[mask].double().abs().mean()
    return {name: float(value) for name, value in measured.items()}


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
            "record": rollout.rows[row].record,
            "prompt": tokenizer.decode(rollout.rows[row].input_ids),
            "response": tokenizer.decode(rollout.responses[row].tokens),
            "score": float(judged.scores[row]),
            "kl": float(kl[row]),
        }
        for row in range(min(count, len(rollout.rows)))
    ]
