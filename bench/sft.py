"""SFT compared with trl.SFTTrainer: tokens per second and peak memory.

Both train the same model in float32 on the same alpaca conversations, eight per step, with the same labels. TRL gets
rows of token ids and labels, so its time does not include tokenisation, which `encoding` measures.
"""

import tempfile
from pathlib import Path
from typing import Any

from bench.base import base_model, real_file
from bench.race import race
from bench.row import Figures, Row, compare

STEPS, CONVERSATIONS, MAX_LENGTH = 12, 8, 2048
DEFAULTS = {"gradient_checkpointing": True}
# TRL's fastest settings found on a CPU: rows of similar length share a batch. Slower: unsorted rows, padded (a third of
# the speed) or with padding_free; packing; each with eager attention. torch_compile made no difference.
BEST = {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}


def rows(data: Path, folder: Path, rounds: int) -> list[Row]:
    given = {"records": str(real_file(data, "alpaca_en.json")), "base": str(base_model(data, folder))}
    sides = {
        f"{who}, {how}": (f"bench.sft:{who}", given | {"settings": settings})
        for how, settings in (("defaults", DEFAULTS), ("best", BEST))
        for who in ("ours", "trl")
    }
    found = race(sides, rounds)
    beside = {
        "defaults": "trl.SFTTrainer with its defaults",
        "best": "trl.SFTTrainer with its fastest settings, rows in the same order",
    }
    return [
        compare(f"SFT, {how}", beside[how], "tokens_per_second", found[f"ours, {how}"], found[f"trl, {how}"], bar)
        for how, bar in (("defaults", 2), ("best", 1))
    ]


def ours(records: str, base: str, settings: dict[str, Any]) -> Figures:
    """Run the stage as `make sft` does, with `settings` in the section `trainer`."""
    from bench.clock import Clock
    from sft.train import train

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        train(recipe(records, base, folder, settings))
    return clock.figures()


def trl(records: str, base: str, settings: dict[str, Any]) -> Figures:
    """Run trl.SFTTrainer with `settings`; the rest are its defaults."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from bench.clock import Clock
    from bench.stage_rows import stage_rows
    from engine.data import encoding

    class SameOrder(SFTTrainer):
        """Group rows by length in our order: our trainer has its own generator, TRL's uses torch's default one."""

        def _get_train_sampler(self, *arguments: Any) -> Any:
            sampler: Any = super()._get_train_sampler(*arguments)
            sampler.generator = torch.Generator().manual_seed(self.args.seed)
            return sampler

    tokenizer, clock = AutoTokenizer.from_pretrained(base), Clock()
    with tempfile.TemporaryDirectory() as folder:
        same = recipe(records, base, folder, {})
        trainer = SameOrder(
            AutoModelForCausalLM.from_pretrained(base),
            SFTConfig(
                folder, max_length=MAX_LENGTH, max_steps=STEPS, per_device_train_batch_size=CONVERSATIONS,
                save_strategy="no", bf16=False, seed=same.run.seed, **settings,
            ),
            train_dataset=stage_rows(encoding.conversations, same, tokenizer),
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
    return clock.figures()


def recipe(records: str, base: str, folder: str, settings: dict[str, Any]) -> Any:
    """Return our recipe, as a user would write it."""
    from config.sections import Model, TrainingRun
    from sft.recipe import SFT, Data

    # The learning rate is TRL's default, so both are equal.
    trainer = {"max_steps": STEPS, "per_device_train_batch_size": CONVERSATIONS, "learning_rate": 2e-5, **settings}
    return SFT(
        stage="sft",
        model=Model(path=base, dtype="float32"),
        data=Data(train=records, max_length=MAX_LENGTH, packing=False),
        run=TrainingRun(dir=f"{folder}/run", save_steps=10 * STEPS),
        trainer=trainer,
    )
