"""An evaluation small enough to run in a second: random models, a handful of prompts, comparisons and text."""

import json
from pathlib import Path
from typing import Any

import torch

import eval.answers
from config.sections import Model
from engine.models.loading import new_scalar
from engine.models.saving import save_model
from engine.models.tokenizer import load_tokenizer
from tests.support.small_models import small_model
from tests.support.tokenizers import qwen

# With random weights an end token is drawn about once in several hundred tokens. Its output row is raised so that
# answers end at different lengths.
END_BOOST = 4.0
RECIPE = """
stage: eval
eval:
  subjects: {{base: {folder}/base/model, sft: {folder}/sft/model, best_of_n: {{best_of: sft, n: 4, reward: rm}},
             ppo: {folder}/ppo/model}}
  reference: sft
  rewards: {{pmp: {folder}/pmp/model, rm: {folder}/rm/model}}
  gold: "tests.support.eval_setting:gold"
data: {{prompts: {folder}/world/prompts.jsonl, max_prompt_tokens: 64, max_length: 128,
       comparisons: {{pairs: {folder}/world/pairs.jsonl, correctness_pairs: {folder}/world/correctness.jsonl}},
       texts: {{pretrain: {folder}/world/text.jsonl}}}}
sampling: {{max_new_tokens: 12, batch_size: 4}}
run: {{dir: {folder}/eval}}
"""
SUBSETS = ["chat", "math", None]
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "how", "are", "you", "today"]


def gold(record: dict[str, Any], answer: str) -> dict[str, float]:
    """Return a gold score that rewards the letter e and short answers."""
    correct, length = float("e" in answer), 1 / (1 + len(answer))
    return {"gold": correct + length, "correct": correct, "length": length}


def make_setting(folder: Path) -> Path:
    """Write models, data and `eval.yaml` into `folder`; return the recipe's path."""
    tokenizer = qwen()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    for seed, name in enumerate(("base", "sft", "ppo")):
        model = small_model(vocab_size=len(tokenizer), seed=seed)
        with torch.no_grad():
            rows = model.get_output_embeddings().weight
            rows[end] += END_BOOST * rows.abs().mean()
        save_model(model, tokenizer, folder / name / "model")
    for seed, name in enumerate(("pmp", "rm")):
        path = str(folder / "base" / "model")
        reward = new_scalar(path, Model(path=path), load_tokenizer(path), seed=seed)
        reward.config.score_offset = 0.1
        save_model(reward, tokenizer, folder / name / "model")
    prompts = [{"prompt": " ".join(WORDS[i : i + 3]), "number": i} for i in range(10)]
    pairs = [
        {"prompt": WORDS[i], "chosen": " ".join(WORDS[i : i + 3]), "rejected": WORDS[i + 1], "subset": SUBSETS[i % 3]}
        for i in range(9)
    ]
    texts = [{"text": " ".join(WORDS[i : i + 6])} for i in range(8)]
    world = folder / "world"
    world.mkdir()
    for name, rows in (("prompts", prompts), ("pairs", pairs), ("correctness", pairs[:5]), ("text", texts)):
        (world / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (world / "world.json").write_text(json.dumps({"seconds": 1.5}), encoding="utf-8")
    recipe = folder / "eval.yaml"
    recipe.write_text(RECIPE.format(folder=folder), encoding="utf-8")
    return recipe


def kept_items(run_dir: Path) -> dict[str, int]:
    """Return the number of items that an evaluation has stored, by file."""
    return {path.name: len(path.read_text().splitlines()) for path in (run_dir / "items").glob("*.jsonl")}


def count_generated_prompts(monkeypatch) -> list[int]:
    """Return a list to which evaluations append the number of prompts of each call that generates."""
    calls, sample = [], eval.answers.sample

    def counting(model, request, *arguments, **options):
        calls.append(len(request.prompts))
        return sample(model, request, *arguments, **options)

    monkeypatch.setattr(eval.answers, "sample", counting)
    return calls
