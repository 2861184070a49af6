"""SFT beside trl.SFTTrainer: tokens a second and memory.

Both train the same model in float32 on the same conversations of alpaca, eight to a step, with the same labels. TRL is
given rows of token ids and labels, so that its tokenisation, which another part measures, is not in its time.
"""

import tempfile
from pathlib import Path
from typing import Any

from bench.base import made_base, real
from bench.race import race
from bench.row import Figures, Row, compare

STEPS, CONVERSATIONS, MAX_LENGTH = 12, 8, 2048
DEFAULTS = {"gradient_checkpointing": True}
# The best that was found for TRL on a CPU: rows of like length share a batch. Slower: rows as they come, padded (a
# third of the speed) or with padding_free; packing; each with eager attention. torch_compile changed nothing.
BEST = {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}


def rows(data: Path, folder: Path, rounds: int) -> list[Row]:
    given = {"records": str(real(data, "alpaca_en.json")), "base": str(made_base(data, folder))}
    sides = {
        f"{who}, {how}": (f"bench.sft:{who}", given | {"settings": settings})
        for how, settings in (("defaults", DEFAULTS), ("best", BEST))
        for who in ("ours", "trl")
    }
    found = race(sides, rounds)
    beside = {"defaults": "trl.SFTTrainer, its defaults", "best": "trl.SFTTrainer at its best, rows in the same order"}
    return [
        compare(f"SFT, {how}", beside[how], "tokens_per_second", found[f"ours, {how}"], found[f"trl, {how}"], bar)
        for how, bar in (("defaults", 2), ("best", 1))
    ]


def ours(records: str, base: str, settings: dict[str, Any]) -> Figures:
    """The stage, as `make sft` runs it, with `settings` in its section `trainer`."""
    from bench.clock import Clock
    from sft.train import train

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        train(recipe(records, base, folder, settings))
    return clock.figures()


def trl(records: str, base: str, settings: dict[str, Any]) -> Figures:
    """`trl.SFTTrainer` with `settings` besides its defaults."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from bench.clock import Clock
    from bench.stage_rows import stage_rows
    from engine.data import encoding

    class SameOrder(SFTTrainer):
        """Where rows of like length share a batch, ours draws from a generator of its own and TRL from torch's."""

        def _get_train_sampler(self, *arguments: Any) -> Any:
            sampler = super()._get_train_sampler(*arguments)
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
    """Ours, as a person would write it."""
    from config.sections import Model, TrainingRun
    from sft.recipe import SFT, Data

    # TRL's learning rate, so that not even that differs.
    trainer = {"max_steps": STEPS, "per_device_train_batch_size": CONVERSATIONS, "learning_rate": 2e-5, **settings}
    return SFT(
        stage="sft",
        model=Model(path=base, dtype="float32"),
        data=Data(train=records, max_length=MAX_LENGTH, packing=False),
        run=TrainingRun(dir=f"{folder}/run", save_steps=10 * STEPS),
        trainer=trainer,
    )
