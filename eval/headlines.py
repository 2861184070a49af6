"""A summary in words: one sentence for all of it, and the few figures that matter with what they mean."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eval.table import percent


@dataclass(frozen=True)
class Headline:
    label: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Accuracy:
    """A reward model on one set of held-out comparisons."""

    model: str
    comparisons: str
    figures: dict[str, Any]
    """of eval/trust.py"""


MODELS = {"pmp": "preference model (PMP)", "rm": "reward model"}
SETS = {"pairs": "all", "correctness_pairs": "sides that differ in correctness"}


def verdict(summary: dict[str, Any]) -> str:
    """One sentence on what alignment did; empty where nothing was compared."""
    if "gold_ppo_minus_sft" in summary:
        low, high = summary["gold_ppo_minus_sft_ci95"]
        word = "raised" if low > 0 else "lowered" if high < 0 else "did not clearly change"
        moved = f" from {summary['gold_sft']:.2f} to {summary['gold_ppo']:.2f}"
        return (
            f"PPO {word} the gold score{'' if low <= 0 <= high else moved} on {summary['prompts']:,} held-out prompts: "
            f"by {summary['gold_ppo_minus_sft']:+.2f}, with 95% confidence between {low:+.2f} and {high:+.2f}."
        )
    if summary.get("score_ppo") is not None and summary.get("score_sft") is not None:
        return (
            f"On {summary['prompts']:,} prompts the reward model scores PPO's answers {summary['score_ppo']:.2f}, "
            f"SFT's {summary['score_sft']:.2f}. It is what PPO was trained to please, so this proves little."
        )
    return ""


def headlines(summary: dict[str, Any]) -> Iterator[Headline]:
    """The figures to look at first, of those that there are."""
    if "gold_ppo" in summary:
        yield Headline(
            "Gold score",
            f"{summary['gold_sft']:.2f} → {summary['gold_ppo']:.2f}",
            "How good the answers really are, SFT's and then PPO's, by a scorer that training never sees.",
        )
    if "win_rate_ppo_vs_sft" in summary:
        yield Headline(
            "PPO preferred",
            percent(summary["win_rate_ppo_vs_sft"]),
            "Share of prompts where gold finds PPO's answer the better one; a tie counts half. 50% is no difference.",
        )
    if "accuracy_ppo" in summary:
        yield Headline(
            "Right answers",
            f"{percent(summary['accuracy_sft'])} → {percent(summary['accuracy_ppo'])}",
            "Manners must not be bought with mistakes: this should not fall.",
        )
    if "rm_accuracy_rm" in summary:
        yield Headline(
            "Reward model right",
            percent(summary["rm_accuracy_rm"]),
            f"Of {summary['pairs']:,} held-out comparisons; a coin gets 50%.",
        )
    if "kl_ppo_ref" in summary:
        yield Headline(
            "Distance from SFT",
            f"{summary['kl_ppo_ref']:.1f} nats",
            "KL of an answer: how far PPO has moved from the model it started as, and what the gain cost.",
        )
    if "pretrain_ppl_ppo" in summary:
        change = summary["pretrain_ppl_ppo"] / summary["pretrain_ppl_sft"] - 1
        yield Headline(
            "Perplexity of plain text",
            f"{100 * change:+.1f}%",
            "Change by PPO, on held-out pretraining text; above 0, some of it was forgotten.",
        )


def accuracies(summary: dict[str, Any]) -> Iterator[Accuracy]:
    """What is known of each reward model on each set of comparisons."""
    for model, sets in summary.get("reward_models", {}).items():
        for data, figures in sets.items():
            yield Accuracy(MODELS.get(model, model), SETS.get(data, data), figures)
