"""Hand-written inputs of a report: run folders of every stage without weights, and an evaluation of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config import load
from engine.run.folder import environment
from eval.recipe import Eval
from tests.support.evaluation_folder import write_evaluation
from tests.support.stage_runs import write_jsonl
from tests.support.tokenizers import qwen

CONVERSATION = [
    {"role": "user", "content": "How are you today? 你好"},
    {"role": "assistant", "content": "The quick brown fox\njumps."},
    {"role": "user", "content": "And 3?"},
    {"role": "assistant", "content": "<b>seven</b>"},
]
RECIPE = """\
stage: {kind}
model: {{path: {folder}/base/model}}
reward: {{path: {folder}/rm/model}}
chatml: {{mask: assistant, train_on: every_answer, tools: hermes, system: null}}
data: {{train: {folder}/world/{data}.jsonl, eval: null, fields: {{}}, too_long: cut_oldest_turns, on_bad_record: error,
       max_length: 256}}
ppo: {{value_warmup_steps: 2{rates}}}
trainer: {{learning_rate: 2.0e-3, lr_scheduler_type: cosine}}
run: {{dir: {folder}/{name}, seed: 0}}
"""
PPO_RATES = ", policy_learning_rate: 7.0e-5, value_learning_rate: 1.0e-3, lr_scheduler_type: constant"
EVAL = """\
stage: eval
eval:
  subjects: {subjects}
  rewards: {rewards}
  gold: {gold}
data: {{{prompts} comparisons: {{pairs: {folder}/world/pairs.jsonl}}}}
run: {{dir: {folder}/eval}}
"""
# Run name -> stage. No name is special to the code; SUBJECTS begins with the reference.
KINDS = {"words": "sft", "talk": "sft", "likes": "reward", "rm": "reward", "tuned": "ppo"}
SUBJECTS = ("talk", "words", "best", "tuned")


def gold(record: dict[str, Any], answer: str) -> dict[str, float]:
    """Return the gold score in the record of a logged PPO response, given without the end token."""
    assert "<|im_end|>" not in answer
    return {"gold": record["gold"]}


def metrics_of(kind: str, step: int) -> dict[str, Any]:
    if kind == "sft":
        return {"loss": 2 / step, "grad_norm": 1.0}
    if kind == "reward":
        return {"loss": 0.7 - 0.01 * step, "accuracy": 0.5 + 0.02 * step, "margin": 0.1 * step}
    seen = {
        "score": 0.1 * step, "kl": 0.2 * max(0, step - 2), "entropy": 2.0, "response_tokens": 9.0, "without_end": 0.0,
        "value_loss": 1 / step, "explained_variance": None if step == 1 else 0.1 * step,
    }  # fmt: skip
    trained = {"approx_kl": 0.01, "policy_clip_fraction": 0.1, "pretrain_loss": 1.0}
    return seen | (trained if step > 2 else {})


def write_stage(folder: Path, name: str, kind: str) -> None:
    """Write a finished run folder without weights; that of an SFT run holds its tokenizer."""
    path = folder / name
    path.mkdir()
    data = "text" if name == "words" else "talk"
    rates = PPO_RATES if kind == "ppo" else ""
    (path / "recipe.yaml").write_text(RECIPE.format(folder=folder, name=name, kind=kind, data=data, rates=rates))
    write_jsonl(
        path / "metrics.jsonl",
        [{"step": step, "tokens_per_second": 500.0, **metrics_of(kind, step)} for step in range(1, 9)],
    )
    (path / "finished.json").write_text(json.dumps({"steps": 8, "seconds": 12.5, "at": "2026-01-02T03:04:05"}))
    (path / "environment.json").write_text(json.dumps(environment()))
    (path / "data.json").write_text(
        json.dumps({"train": {"read": 1234, "kept": 1200, "cut": 3, "dropped": {"too long": 34}, "rows": 300,
                              "tokens": 56789, "trained_tokens": 4321}})
    )  # fmt: skip
    if kind == "sft":
        qwen().save_pretrained(path / "model")
    if kind == "ppo":
        row = {"prompt": "?", "response": "Hi.<|im_end|>", "score": 0.0, "kl": 0.0}
        write_jsonl(path / "rollouts.jsonl", [{"step": s, **row, "record": {"gold": s}} for s in range(1, 9)])


def candidate_line(item: int) -> dict[str, Any]:
    """Return three answers to an item; both the reward and gold prefer the last."""
    answers = [
        {"scores": {"pmp": 0.0, "rm": 0.1 * k if k else None}, "gold": {"total": k + item % 3}} for k in range(3)
    ]
    return {"item": item, "subject": "best", "candidates": answers}


def write_recipe(folder: Path, subjects: Mapping[str, Any], rewards: Mapping[str, Any], gold: str | None) -> Eval:
    text = EVAL.format(
        folder=folder,
        prompts=f"prompts: {folder}/world/prompts.jsonl," if subjects else "",
        subjects=json.dumps(dict(subjects)),
        rewards=json.dumps(dict(rewards)),
        gold=json.dumps(gold),
    )
    (folder / "eval.yaml").write_text(text)
    return load(Eval, folder / "eval.yaml")


def write_run(folder: Path, stages: Mapping[str, str] = KINDS, *, evaluated: bool = True) -> Eval:
    """Write the world, run folders of `stages` (name -> kind) and, if `evaluated`, an evaluation in `folder`/eval."""
    (folder / "world").mkdir(parents=True)
    write_jsonl(folder / "world" / "talk.jsonl", [{"messages": CONVERSATION}])
    write_jsonl(folder / "world" / "text.jsonl", [{"text": "The quick brown fox jumps over the lazy dog."}])
    for name, kind in stages.items():
        write_stage(folder, name, kind)
    if evaluated:
        write_evaluation(folder / "eval", SUBJECTS)
        write_jsonl(folder / "eval" / "candidates.jsonl", map(candidate_line, range(10)))
        (folder / "eval" / "recipe.yaml").write_text("run: {dir: here}\n")
        (folder / "eval" / "environment.json").write_text(
            json.dumps(environment() | {"command": ["eval", "x.yaml"], "commit": "60b08e9"})
        )
        (folder / "eval" / "finished.json").write_text(json.dumps({"answers": 9, "at": "2026-02-03T04:05:06"}))
    models = {name: f"{folder}/{name}/model" for name in ("talk", "words", "tuned")}
    subjects = {"talk": models["talk"], "words": models["words"], "best": {"best_of": "talk", "n": 3, "reward": "rm"},
                "tuned": models["tuned"]}  # fmt: skip
    rewards = {"pmp": f"{folder}/likes/model", "rm": f"{folder}/rm/model"}
    return write_recipe(folder, subjects, rewards, "tests.support.report_setting:gold")
