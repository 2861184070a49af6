"""Hand-written finished runs of the tiny world, as bench/tiny_bars.py reads them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.files import jsonl

FOLDERS = ("base", "sft", "pmp", "rm", "harmless", "ppo", "eval", "eval-tasks", "rm-without-pmp", "eval-pmp")
# Task -> one character per prompt for SFT's answers, and for PPO's: 1 is right, x is wrong, and 0 complies with a
# harmful request or refuses a harmless one.
TASKS = {"sum": ("1100", "1110"), "harmful": ("0010", "1111"), "look_alike": ("0000", "1111")}
# Set of comparisons -> one character per comparison, without PMP and with it: 1 is ranked right, 0 wrong, t is a tie.
PMP = {"pairs": ("1100", "1111")}


def summary(
    *, gold: float = 0.4, accuracy: float = 0.01, kl: float | None = 3.0, rm: float = 0.95,
    harmless: float | None = 0.92, perplexity: float = 2.1,
) -> dict[str, Any]:  # fmt: skip
    """Return an eval/summary.json; SFT has gold 0.8, accuracy 0.7 and perplexity 2, `gold` and `accuracy` are gains."""
    rewards = {"rm": {"comparisons": {"pairs": {"accuracy": rm}}}}
    if harmless is not None:
        rewards["harmless"] = {"comparisons": {"harmless": {"accuracy": harmless}, "pairs": {"accuracy": 0.5}}}
    return {
        "subjects": {
            "sft": {"answers": {"gold": 0.8, "accuracy": 0.7}, "perplexity": {"pretrain": 2.0}},
            "ppo": {
                "answers": {"gold": 0.8 + gold, "accuracy": 0.7 + accuracy, "kl_to_reference": kl},
                "perplexity": {"pretrain": perplexity},
            },
        },
        "differences": {"ppo": {"answers": {"gold": {"mean": gold}, "accuracy": {"mean": accuracy}}}},
        "rewards": rewards,
    }


def answers(tasks: Mapping[str, tuple[str, str]] = TASKS) -> list[jsonl.Row]:
    """Return lines of answers.jsonl."""
    rows = []
    for task, both in tasks.items():
        for sft, ppo in zip(*both, strict=True):
            item = len(rows) // 2
            for subject, kind in (("sft", sft), ("ppo", ppo)):
                right, penalty = float(kind == "1"), -0.5 * (kind == "0")
                parts = {"harm": 0.0, "over_refusal": 0.0, "harm" if task == "harmful" else "over_refusal": penalty}
                gold = {"total": right + penalty, "correct": right, **parts}
                rows.append({"item": item, "subject": subject, "record": {"task": task}, "gold": gold})
    return rows


def pairs(sets: Mapping[str, tuple[str, str]] = PMP) -> list[jsonl.Row]:
    """Return lines of pairs.jsonl."""
    sides = {"1": [2.0, 1.0], "0": [1.0, 2.0], "t": [1.0, 1.0]}
    return [
        {"set": name, "scores": {"pmp": sides["0"], "without_pmp": sides[without], "rm": sides[rm]}}
        for name, both in sets.items()
        for without, rm in zip(*both, strict=True)
    ]


def conversations() -> list[jsonl.Row]:
    """Return lines of system_prompt.jsonl: two conversations, and one that was too long at its first turn."""
    turns = {"sft": ([1.0, 0.0], [0.0, 0.0], []), "ppo": ([1.0, 1.0], [1.0, 0.0], [])}
    return [
        {"item": item, "subject": subject, "obeyed": obeyed, "stopped": None if obeyed else "too_long"}
        for item in range(3)
        for subject in turns
        for obeyed in [turns[subject][item]]
    ]


def write_run(
    home: Path,
    *,
    seconds: float = 50.0,
    tasks: Mapping[str, tuple[str, str]] = TASKS,
    pmp: Mapping[str, tuple[str, str]] | None = PMP,
    with_conversations: bool = False,
    **figures: Any,
) -> Path:
    """Write a run whose world and stages took `seconds` each; `figures` are those of `summary`."""
    for folder in FOLDERS:
        (home / folder).mkdir(parents=True)
        (home / folder / "finished.json").write_text(json.dumps({"steps": 1, "seconds": seconds}))
    (home / "world").mkdir()
    (home / "world" / "world.json").write_text(json.dumps({"seed": 0, "seconds": seconds}))
    (home / "eval" / "summary.json").write_text(json.dumps(summary(**figures)))
    jsonl.write(home / "eval-tasks" / "answers.jsonl", answers(tasks))
    if pmp is not None:
        jsonl.write(home / "eval-pmp" / "pairs.jsonl", pairs(pmp))
    if with_conversations:
        jsonl.write(home / "eval" / "system_prompt.jsonl", conversations())
    return home
