"""Hand-written evaluation folders: summary.json, answers.jsonl and pairs.jsonl for any subjects, without a model."""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from engine.files import jsonl

ITEMS, N = 40, 8
TASKS = ("sum", "fact")
INTERVAL = 0.04


def interval(mean: float, n: int = ITEMS, **others: Any) -> dict[str, Any]:
    """Return a difference in the form of summary.json."""
    return {"mean": mean, "ci95": [mean - INTERVAL, mean + INTERVAL], "n": n, **others}


def answer_figures(level: float, *, gold: bool, items: int = ITEMS) -> dict[str, Any]:
    """Return a subject's figures; its gold score is `level`."""
    parts = {"gold": level, "accuracy": level / 2, "manner": level / 4, "wit": 0.25} if gold else {}
    return {
        "items": items, **parts, "score": 2 * level, "scores": {"pmp": level, "rm": 2 * level}, "score_length": -0.39,
        "score_length_given_correct": None, "tokens": 8.8 + level, "without_end": 0.02, "distinct": 0.53,
        "commonest_opening": 0.08, "why": {"score_length_given_correct": "every answer is right"},
    }  # fmt: skip


def subject(level: float, at: int, *, gold: bool) -> dict[str, Any]:
    tasks = {task: answer_figures(level, gold=gold, items=ITEMS // 2) for task in TASKS}
    answers = answer_figures(level, gold=gold) | {"kl_to_reference": 3.0 * at if at else None, "tasks": tasks}
    return {
        "answers": answers,
        "perplexity": {
            "pretrain": 4.05 + 0.5 * at,
            "tokens": {"pretrain": 4321},
            "bits_per_byte": {"pretrain": 0.5 + 0.1 * at},
        },
        "system_prompt": {
            "obeyed": 0.6, "throughout": 0.25, "first": 0.75, "last": 0.5, "by_turn": [0.75, 0.65, 0.5 - 0.1 * at],
            "conversations": ITEMS, "turns": 3 * ITEMS, "too_long": 0, "unreadable": 0,
        },
    }  # fmt: skip


def differences(level: float, at: int, *, gold: bool) -> dict[str, Any]:
    """Return the differences from a reference of level 1."""
    gain = level - 1
    parts = {"gold": interval(gain), "accuracy": interval(gain / 2), "manner": interval(gain / 4)} if gold else {}
    win_rate = interval(0.5 + gain / 4, by="gold" if gold else "score")
    scores = {"pmp": interval(gain), "rm": interval(2 * gain)}
    win_rates = {"pmp": interval(0.5), "rm": interval(0.5 + gain / 4)}
    return {
        "answers": {**parts, "score": scores["rm"], "scores": scores, "tokens": interval(gain),
                    "win_rate": win_rate, "win_rates": win_rates},
        "perplexity": {"pretrain": interval(0.1 * at, n=50)},
        "system_prompt": dict.fromkeys(("obeyed", "throughout", "first", "last"), interval(0.0)),
    }  # fmt: skip


def reward_figures(accuracy: float) -> dict[str, Any]:
    """Return the figures of one reward on one set of comparisons."""
    return {
        "pairs": 40, "accuracy": accuracy, "accuracy_ci95": [accuracy - 0.03, accuracy + 0.02],
        "by_length": {"chosen_longer": {"pairs": 30, "accuracy": accuracy}}, "prefers_longer": 0.6,
        "margin_length_correlation": 0.1, "length_only_accuracy": 0.548, "length_explains": 0.1,
        "calibration": [[0.6, 0.55, 20], [0.9, accuracy, 20]], "ece": 0.023,
        "subsets": {"chat": {"pairs": 30, "accuracy": accuracy, "accuracy_ci95": [accuracy - 0.1, accuracy]},
                    "code": {"pairs": 10, "accuracy": 0.5, "accuracy_ci95": [0.2, 0.8]}},
    }  # fmt: skip


def rewards() -> dict[str, Any]:
    return {
        "pmp": {"comparisons": {"pairs": reward_figures(0.67), "correctness_pairs": reward_figures(0.63)}},
        "rm": {"comparisons": {"pairs": reward_figures(0.96), "correctness_pairs": reward_figures(0.978)}},
    }


def summary(names: Sequence[str], *, gold: bool = True, with_rewards: bool = True) -> dict[str, Any]:
    """Return a summary: the first name is the reference, at level 1, and each further level is higher by 0.5."""
    levels = {name: 1 + at / 2 for at, name in enumerate(names)}
    return {
        "reference": names[0],
        "reward": "rm",
        "subjects": {name: subject(level, at, gold=gold) for at, (name, level) in enumerate(levels.items())},
        "differences": {
            name: differences(level, at, gold=gold) for at, (name, level) in enumerate(levels.items()) if at
        },
        "pairs": {
            f"{one}|{other}": differences(1 + b - a, b, gold=gold)
            for (a, one), (b, other) in combinations(list(enumerate(names[1:])), 2)
        },
        "rewards": rewards() if with_rewards else {},
        "seconds": {names[0]: 12.5, "eval": 3.0},
    }


def answer(item: int, name: str, at: int, *, gold: bool = True, text: str | None = None) -> dict[str, Any]:
    """Return a line of answers.jsonl; scores grow with the subject's position, and faster at later items."""
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 3}}}]}
    value = 0.1 * at * (item - ITEMS // 4)
    return {
        "item": item, "subject": name, "prompt": "?",
        "messages": [{"role": "user", "content": f"question {item} & more"}, called, {"role": "tool", "content": "7"}],
        "record": {"task": TASKS[item % 2]}, "text": f"{name} {item} <script>" if text is None else text,
        "tokens": 5 + item % 7, "ended": True, "scores": {"pmp": value / 2, "rm": value},
        **({"gold": {"total": value, "correct": item % 2}} if gold else {}),
        "logprob": -1.0, "reference_logprob": -2.0,
    }  # fmt: skip


def pair(at: int) -> dict[str, Any]:
    """Return a line of pairs.jsonl."""
    return {
        "set": "pairs", "subset": ("chat", "code")[at % 4 == 0], "scores": {"pmp": [at % 5, 1.0], "rm": [2.0, at % 3]},
        "tokens": [4 + at % 6, 6],
    }  # fmt: skip


def write_evaluation(folder: Path, names: Sequence[str], **options: Any) -> dict[str, Any]:
    """Write the three files into `folder`; return the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    made = summary(names, **options)
    gold = options.get("gold", True)
    (folder / "summary.json").write_text(json.dumps(made))
    lines = [answer(item, name, at, gold=gold) for item in range(ITEMS) for at, name in enumerate(names)]
    jsonl.write(folder / "answers.jsonl", lines)
    if made["rewards"]:
        jsonl.write(folder / "pairs.jsonl", [pair(at) for at in range(40)])
    return made
