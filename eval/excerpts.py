"""Answers to look at: chosen by a fixed rule, so that the bad ones are among them."""

from dataclasses import dataclass

from eval.summary import Answer, Sample


@dataclass(frozen=True)
class Excerpts:
    rule: str
    """how they were chosen, for the reader"""
    samples: list[Sample]


def excerpts(samples: list[Sample], count: int) -> Excerpts:
    """`count` prompts at even distances in the order from PPO's greatest loss against SFT to its greatest gain.

    The order is by gold, else by the reward model's score; without PPO by SFT's own figure; else as they were read.
    """
    if not samples:
        return Excerpts("", [])
    policies = list(samples[0]["answers"])
    first = samples[0]["answers"]["sft"][0]
    if "gold" not in first and "score" not in first:
        return Excerpts("the first prompts, in the order of the file", samples[:count])
    measure = "gold" if "gold" in first else "score"

    def rank(sample: Sample) -> float:
        values = {policy: value(answers[0]) for policy, answers in sample["answers"].items()}
        return values["ppo"] - values["sft"] if "ppo" in values else values["sft"]

    ordered = sorted(samples, key=rank)
    last = len(ordered) - 1
    places = sorted({round(i * last / max(1, count - 1)) for i in range(count)})
    ends = f"where PPO lost most {measure} to where it gained most" if "ppo" in policies else f"least to most {measure}"
    return Excerpts(
        f"{len(places)} of {len(samples):,} prompts, evenly spaced from {ends}", [ordered[place] for place in places]
    )


def value(answer: Answer) -> float:
    """Gold where it is known, else the score; an answer that never ended stands below every other one."""
    if "gold" in answer:
        return answer["gold"]["gold"]
    # Finite, because differences are taken.
    return -1e9 if answer["score"] is None else answer["score"]
