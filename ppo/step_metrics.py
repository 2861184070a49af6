"""Metrics and readable rollouts of a PPO step; docs/metrics.md defines each metric by formula."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from engine.generation.rollout_records import RolloutRecord
from engine.models.tokenizer import decode
from ppo.assess import Assessment
from ppo.kl import kl_estimate
from ppo.reward_mix import RewardMix
from ppo.rollout import Rollout

# Only the last characters of a longer prompt are shown on the console.
MAX_PROMPT_CHARACTERS = 300


def measure(assessment: Assessment, mix: RewardMix) -> dict[str, float]:
    """Return the metrics of a step's rollout, computed from models before the step's updates.

    KL is in nats per response, entropy and `engine_mismatch` in nats per token, lengths in tokens. `mix` must have been
    updated with the step's scores.
    """
    mask, responses = assessment.mask, len(assessment.mask)
    old, reference = assessment.old_logprobs, assessment.ref_logprobs
    kl = (old - reference).double()
    k2, k3 = (kl_estimate(old, reference, estimator).double() for estimator in ("k2", "k3"))
    returns, values = assessment.returns[mask].double(), assessment.old_values[mask].double()
    variance, difference = returns.var(correction=0), assessment.engine_difference
    metrics = {
        "score": assessment.raw_scores.double().mean(),  # NaN where no response has ended
        "normalised_score": assessment.scores.double().mean(),
        **mix.metrics(assessment.part_scores),
        "kl": kl.sum() / responses,
        "kl_k2": k2.sum() / responses,
        "kl_k3": k3.sum() / responses,
        "entropy": assessment.entropy[mask].double().mean(),
        "response_tokens": mask.sum() / responses,
        "without_end": 1 - len(assessment.raw_scores) / responses,
        "control_tokens": assessment.with_control_tokens.double().mean(),
        "returns": returns.mean(),
        "values": values.mean(),
        "explained_variance": 1 - (returns - values).var(correction=0) / variance if variance > 0 else float("nan"),
        "responses": responses,
        "tokens": mask.sum(),
    }
    if difference is not None:
        metrics["engine_mismatch"] = difference[mask].double().abs().mean()
    return {name: float(value) for name, value in metrics.items()}


def first_rollouts(
    step: int, rollout: Rollout, assessment: Assessment, tokenizer: PreTrainedTokenizerBase, count: int
) -> list[RolloutRecord]:
    """Return the first `count` responses of the step, decoded, with their scores and KL (nats per response)."""
    kl = (assessment.old_logprobs - assessment.ref_logprobs).sum(1)
    return [
        RolloutRecord(
            step=step,
            record=rollout.rows[at].record,
            prompt=decode(tokenizer, rollout.rows[at].input_ids),
            response=decode(tokenizer, rollout.responses[at].tokens),
            score=float(assessment.scores[at]),
            kl=float(kl[at]),
            scores=scores_by_part(at, rollout, assessment),
        )
        for at in range(min(count, len(rollout.rows)))
    ]


def scores_by_part(at: int, rollout: Rollout, assessment: Assessment) -> dict[str, float]:
    """Return the raw scores of response `at` by part of the mix; empty without a mix, or without an end token."""
    if not rollout.responses[at].ended:
        return {}
    before = sum(response.ended for response in rollout.responses[:at])
    return {name: float(scores[before]) for name, scores in assessment.part_scores.items() if name}


def as_text(records: Sequence[RolloutRecord]) -> str:
    """Return rollouts as text for the console; a long prompt is cut at its start, to end next to the response."""
    lines = []
    for record in records:
        prompt = record.prompt
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            prompt = f"… {prompt[-MAX_PROMPT_CHARACTERS:]}"
        lines.append(f"  score {record.score:.3g}, kl {record.kl:.3g}")
        lines += [f"  | {line}" for line in f"{prompt}{record.response}".splitlines()]
    return "\n".join(lines)
