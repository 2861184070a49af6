"""Every shipped recipe takes a step, with its own settings, a small model of its family and a few records.

Those of recipes/your-model are run in tests/integration/test_your_model.py.
"""

from pathlib import Path

import pytest

from config import load
from config.stage import stage_of
from engine.files.jsonl import read
from ppo.recipe import PPO
from ppo.train import train as train_ppo
from reward.recipe import Reward
from reward.train import train as train_reward
from sft.recipe import SFT
from sft.train import train as train_sft
from tests.support.paths import ROOT
from tests.support.stage_runs import write_base, write_jsonl

SHIPPED = sorted(path for path in (ROOT / "recipes").glob("*/*.yaml")
                 if path.parent.name not in ("accelerate", "tiny-mini", "your-model")
                 and stage_of(path) in ("sft", "reward", "ppo"))  # fmt: skip
SMALL_TRAINER = [
    "trainer.max_steps=1",
    "trainer.per_device_train_batch_size=2",
    "trainer.gradient_accumulation_steps=1",
]


def family(recipe: Path) -> str:
    return "qwen3" if "qwen3" in recipe.parent.name else "qwen2"


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Write a base and a reward model per family, and data for all stages; return the folder."""
    folder = tmp_path_factory.mktemp("shipped")
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog"]
    write_jsonl(folder / "chat.jsonl", [{"prompt": word, "response": f"{word} today"} for word in words])
    write_jsonl(folder / "pairs.jsonl", [{"prompt": w, "chosen": "fox", "rejected": f"{w} dog"} for w in words])
    write_jsonl(folder / "text.jsonl", [{"text": " ".join(words[n:])} for n in range(6)])
    for kind in ("qwen2", "qwen3"):
        write_base(folder / kind, kind)
        overrides = [*SMALL_TRAINER, f"model.path={folder / kind}", f"data.train={folder / 'pairs.jsonl'}",
                     "data.eval=null", f"run.dir={folder / kind}-reward"]  # fmt: skip
        train_reward(load(Reward, ROOT / "recipes/tiny/pmp.yaml", overrides))
    return folder


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_recipe_takes_a_step(path, small, tmp_path):
    base, stage = small / family(path), stage_of(path)
    overrides = [f"run.dir={tmp_path}", f"model.path={base}"]
    if stage == "sft":
        data = "text.jsonl" if path.stem in ("base", "pretrain") else "chat.jsonl"
        train_sft(load(SFT, path, [*overrides, *SMALL_TRAINER, f"data.train={small / data}"]))
    elif stage == "reward":
        data = [f"data.train={small / 'pairs.jsonl'}", "data.eval=null"]
        train_reward(load(Reward, path, [*overrides, *SMALL_TRAINER, *data]))
    else:
        overrides += [
            "reward.mix={}", f"reward.path={base}-reward/model", f"data.prompts={small / 'chat.jsonl'}",
            f"data.pretrain={small / 'text.jsonl'}", "ppo.steps=1", "ppo.value_warmup_steps=0",
            "ppo.queries_per_step=4", "sampling.max_new_tokens=4",
        ]  # fmt: skip
        train_ppo(load(PPO, path, overrides))
    (step, *_) = read(tmp_path / "metrics.jsonl")
    assert step["step"] == 1
    assert (tmp_path / "model" / "config.json").exists()
