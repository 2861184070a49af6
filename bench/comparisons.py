"""Reward-model training compared with trl.RewardTrainer on hh-rlhf comparisons: pairs per second and peak memory.

Both use the same base model, token ids, order, pairs per step, maximum length and optimiser. In the first row TRL has
our precision and checkpointing; in the second it has its defaults. The first step warms up and is not timed.
"""

import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.base import base_model, real_file
from bench.race import race
from bench.row import Figures, Row, compare
from engine.dist.devices import peak_memory

# MAX_LENGTH is RewardConfig's default, in tokens per side; pairs with a longer side are dropped.
PAIRS_PER_STEP, STEPS, MAX_LENGTH = 16, 6, 1024
SETTINGS = {
    "per_device_train_batch_size": PAIRS_PER_STEP,
    "max_steps": STEPS,
    "logging_steps": 1,
    "learning_rate": 1e-5,
}


def rows(data: Path, folder: Path, rounds: int) -> list[Row]:
    arguments = {
        "pairs": str(real_file(data, "hh_helpful_rejection_sampled.jsonl.gz")),
        "base": str(base_model(data, folder)),
    }
    sides = {
        "ours": ("bench.comparisons:ours", arguments),
        "trl": ("bench.comparisons:trl", arguments),
        "trl's defaults": ("bench.comparisons:trl_defaults", arguments),
    }
    found = race(sides, rounds)
    return [
        compare("reward model", beside, "pairs_per_second", found["ours"], found[side], bar)
        for side, beside, bar in (
            ("trl", "trl.RewardTrainer, same batch, float32, no checkpointing", 2),
            ("trl's defaults", "trl.RewardTrainer with its defaults: bfloat16, half the batch, checkpointing", 1),
        )
    ]


def ours(pairs: str, base: str) -> Figures:
    """Run the reward stage."""
    from engine.files.jsonl import read
    from reward.train import train

    with tempfile.TemporaryDirectory() as folder:
        train(recipe(pairs, base, folder))
        lines = [line for line in read(Path(folder) / "metrics.jsonl") if "loss" in line]
    return step_figures(PAIRS_PER_STEP, [line["elapsed_seconds"] for line in lines])


def trl(pairs: str, base: str) -> Figures:
    """Run RewardTrainer with our settings."""
    return train_with_trl(pairs, base, bf16=False, gradient_checkpointing=False, max_length=MAX_LENGTH, **SETTINGS)


def trl_defaults(pairs: str, base: str) -> Figures:
    """Run RewardTrainer with its defaults; only the number of steps is set."""
    return train_with_trl(pairs, base, max_steps=STEPS, logging_steps=1)


def train_with_trl(pairs: str, base: str, **settings: Any) -> Figures:
    """Run RewardTrainer on our tokenised rows, which it uses unchanged."""
    from transformers import AutoModelForSequenceClassification, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    from bench.stage_rows import stage_rows
    from engine.data import encoding
    from engine.models.tokenizer import load_tokenizer

    class Clock(TrainerCallback):
        def on_log(self, *_: object, **__: object) -> None:
            times.append(perf_counter())

    times: list[float] = []
    tokenizer = load_tokenizer(base)
    with tempfile.TemporaryDirectory() as folder:
        settled = recipe(pairs, base, folder)
        compared = stage_rows(encoding.pairs, settled, tokenizer)
        trainer = RewardTrainer(
            AutoModelForSequenceClassification.from_pretrained(base, num_labels=1),
            RewardConfig(folder, use_cpu=True, report_to="none", save_strategy="no", seed=settled.run.seed, **settings),
            train_dataset=compared,
            processing_class=tokenizer,
            callbacks=[Clock()],
        )
        trainer.train()
    return step_figures(trainer.args.per_device_train_batch_size, times[:STEPS])


def recipe(pairs: str, base: str, folder: str) -> Any:
    from config.data import TrainingData
    from config.sections import Model, TrainingRun
    from reward.recipe import Reward

    return Reward(
        stage="reward",
        model=Model(path=base, dtype="float32"),
        data=TrainingData(train=pairs, max_length=MAX_LENGTH, too_long="drop"),
        run=TrainingRun(dir=folder, save_steps=10**6),
        trainer={**SETTINGS, "gradient_checkpointing": False},
    )


def step_figures(batch: int, ends: list[float]) -> Figures:
    """Return the figures of one run; `ends` are the times in seconds at which its steps ended, `batch` is in pairs."""
    return {"pairs_per_second": batch * (len(ends) - 1) / (ends[-1] - ends[0]), "peak_mib": peak_memory() / 2**20}
