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

STEPS, CONVERSATIONS, LONGEST = 14, 8, 2048
# The best that was found for TRL on a CPU. Tried besides: its defaults without checkpointing, rows sorted by length,
# packing with sdpa, padding_free with sdpa, torch_compile.
BEST = {"gradient_checkpointing": False, "padding_free": True, "max_length": None}


def rows(data: Path, folder: Path, rounds: int) -> list[Row]:
    given = {"records": str(real(data, "alpaca_en.json")), "base": str(made_base(data, folder))}
    sides = {
        "ours": ("bench.sft:ours", given | {"checkpointing": True}),
        "trl": ("bench.sft:trl", given | {"settings": {}}),
        "ours, no checkpointing": ("bench.sft:ours", given | {"checkpointing": False}),
        "trl, best": ("bench.sft:trl", given | {"settings": BEST}),
    }
    found = race(sides, rounds)
    return [
        compare("SFT", "trl.SFTTrainer with its defaults", "tokens_per_second", found["ours"], found["trl"], bar=2),
        compare(
            "SFT, no checkpointing",
            "trl.SFTTrainer at its best: " + ", ".join(f"{name}={value}" for name, value in BEST.items()),
            "tokens_per_second", found["ours, no checkpointing"], found["trl, best"], bar=1,
        ),
    ]  # fmt: skip


def ours(records: str, base: str, checkpointing: bool) -> Figures:
    """The stage, as `make sft` runs it."""
    from bench.clock import Clock
    from sft.train import train

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        train(recipe(records, base, folder, checkpointing))
    return clock.figures()


def trl(records: str, base: str, settings: dict[str, Any]) -> Figures:
    """`trl.SFTTrainer` with `settings` besides its defaults."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from bench.clock import Clock
    from engine.data.rows import conversation_rows

    tokenizer, clock = AutoTokenizer.from_pretrained(base), Clock()
    with tempfile.TemporaryDirectory() as folder:
        same = recipe(records, base, folder, checkpointing=False)
        trainer = SFTTrainer(
            AutoModelForCausalLM.from_pretrained(base),
            SFTConfig(
                folder, max_steps=STEPS, per_device_train_batch_size=CONVERSATIONS, save_strategy="no", bf16=False,
                **{"max_length": LONGEST, **settings},
            ),
            train_dataset=conversation_rows(records, same, tokenizer, key="data.train", max_length=LONGEST)[0],
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
    return clock.figures()


def recipe(records: str, base: str, folder: str, checkpointing: bool) -> Any:
    """Ours: a recipe as a person would write it."""
    from recipes.sections import Model, Run
    from sft.recipe import SFT, Data

    return SFT(
        model=Model(path=base, dtype="float32"),
        data=Data(train=records, max_length=LONGEST, packing=False),
        run=Run(dir=f"{folder}/run", save_steps=10 * STEPS),
        trainer={
            "max_steps": STEPS,
            "per_device_train_batch_size": CONVERSATIONS,
            "learning_rate": 2e-5,  # SFTConfig's own
            "gradient_checkpointing": checkpointing,
        },
    )
