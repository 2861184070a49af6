"""Planned and measured peak memory of real stages on a CPU, with random weights and a few steps.

    python -m bench.planning [SETTING ...]       all by default; print a table and write runs/bench/planning.json

The measured peak is resident memory above that after the imports, in a separate process. MALLOC_MMAP_THRESHOLD_ is set,
so glibc returns large blocks as soon as they are freed and resident memory is the memory in use, like the count of a
GPU's allocator. `--kept` also measures without this variable, which gives up to twice as much.
"""

import argparse
import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.race import run_side

MALLOC_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "131072"}
MAX_DEVIATION = 0.15
# ChatML tokens around a prompt and its response.
CHATML_TOKENS, SIDES = 26, ("chosen", "rejected")


@dataclass(frozen=True)
class Setting:
    """A run of a stage: the shape of the model, and the overrides of the recipe below."""

    stage: str
    hidden: int
    layers: int
    heads: int
    keys: int
    """key-value heads"""
    intermediate: int
    vocabulary: int
    tied: bool
    length: int
    """tokens per row, per side of a comparison, or per prompt"""
    overrides: tuple[str, ...] = ()
    family: str = "qwen2"
    frozen: bool = False
    """whether the setting was chosen after the planner's formulas were fixed"""
    hardware: str = ""
    """file of recipes/accelerate/ by which two processes shard the model; empty for one process"""

    @property
    def plan_overrides(self) -> list[str]:
        processes = [f"plan.hardware={self.hardware}", "plan.processes=2"] if self.hardware else []
        return [*self.overrides, *processes, "plan.device=cpu"]


COMMON = "model: {{path: {home}/base, dtype: float32}}\nrun: {{dir: {home}/run, save_steps: 1000}}\n"
RECIPES = {
    "sft": "stage: sft\n" + COMMON + """chatml: {{mask: all}}
data: {{train: {home}/text.jsonl, max_length: {length}}}
trainer: {{max_steps: 2, per_device_train_batch_size: 1, gradient_checkpointing: false}}
""",
    "reward": "stage: reward\n" + COMMON + """data: {{train: {home}/pairs.jsonl, max_length: {length}}}
reward: {{keep_best: false}}
trainer: {{max_steps: 2, per_device_train_batch_size: 1, gradient_checkpointing: false}}
""",
    "ppo": "stage: ppo\n" + COMMON + """reward: {{path: {home}/reward}}
data: {{prompts: {home}/prompts.jsonl, pretrain: {home}/text.jsonl, max_prompt_tokens: {length}, pretrain_length: 512}}
sampling: {{max_new_tokens: 64}}
ppo: {{steps: 2, value_warmup_steps: 0, queries_per_step: 8, epochs: 1, minibatches: 2, pretrain_ratio: 2.0,
      micro_batch_tokens: 2048}}
""",
}  # fmt: skip
SETTINGS: dict[str, Setting] = {
    "sft": Setting("sft", 512, 8, 8, 8, 1408, 32000, True, 2048),
    "sft, checkpointing": Setting("sft", 512, 12, 8, 8, 1408, 32000, False, 2048,
                                  ("trainer.gradient_checkpointing=true", "trainer.per_device_train_batch_size=2")),
    "sft, LoRA": Setting("sft", 768, 8, 12, 4, 2048, 32000, False, 1024, ("lora.r=16",)),
    "reward": Setting("reward", 512, 8, 8, 8, 1408, 32000, True, 512, ("trainer.per_device_train_batch_size=2",)),
    "ppo": Setting("ppo", 384, 6, 6, 6, 1024, 32000, True, 256),
    "ppo, writing": Setting("ppo", 256, 4, 4, 4, 704, 96000, False, 128,
                            ("sampling.batch_size=64", "ppo.queries_per_step=32", "ppo.pretrain_coef=0")),
    # Chosen after the formulas were fixed.
    "sft, Qwen3, in two parts": Setting("sft", 512, 6, 8, 2, 1536, 48000, False, 512, (
        "trainer.per_device_train_batch_size=2", "trainer.gradient_accumulation_steps=2"), "qwen3", True),
    "sft, bfloat16": Setting("sft", 512, 8, 8, 4, 1408, 32000, False, 1024, ("model.dtype=bfloat16",), frozen=True),
    "sft, dropout": Setting("sft", 448, 6, 7, 7, 1216, 24000, True, 512, (
        "model.attention_dropout=0.1", "trainer.per_device_train_batch_size=2"), frozen=True),
    "reward, LoRA": Setting("reward", 768, 6, 12, 4, 2048, 32000, False, 384, (
        "lora.r=8", "trainer.gradient_checkpointing=true", "trainer.per_device_train_batch_size=2"), frozen=True),
    "ppo, no value model": Setting("ppo", 512, 6, 8, 4, 1408, 40000, False, 192, (
        "ppo.advantage=rloo", "ppo.gradient_checkpointing=true", "ppo.fused_adamw=true"), frozen=True),
    "ppo, bfloat16": Setting("ppo", 384, 6, 6, 2, 1152, 48000, True, 256, (
        "model.dtype=bfloat16", "ppo.pretrain_coef=0", "ppo.minibatches=1"), frozen=True),
    "sft, LoRA, bfloat16": Setting("sft", 896, 6, 14, 2, 2432, 36000, True, 768, (
        "lora.r=16", "model.dtype=bfloat16"), frozen=True),
    "reward, LoRA, Qwen3": Setting("reward", 640, 8, 10, 5, 1792, 28000, False, 512, ("lora.r=32",), "qwen3", True),
    "ppo, GRPO": Setting("ppo", 448, 7, 7, 7, 1280, 30000, True, 224, (
        "ppo.advantage=grpo", "ppo.micro_batch_tokens=1024"), frozen=True),
    # A second round, chosen after the errors found by the first were fixed.
    "sft, wide": Setting("sft", 768, 4, 12, 3, 3072, 20000, False, 1536, frozen=True),
    "sft, LoRA, checkpointing": Setting("sft", 896, 8, 14, 7, 2432, 32000, True, 768, (
        "lora.r=64", "trainer.gradient_checkpointing=true", "trainer.per_device_train_batch_size=2"), frozen=True),
    "reward, bfloat16": Setting("reward", 512, 10, 8, 4, 1408, 30000, False, 640, (
        "model.dtype=bfloat16", "trainer.per_device_train_batch_size=2"), frozen=True),
    "reward, Qwen3, in two parts": Setting("reward", 576, 8, 9, 3, 1536, 40000, True, 320, (
        "trainer.per_device_train_batch_size=4", "trainer.gradient_accumulation_steps=2",
        "trainer.gradient_checkpointing=true"), "qwen3", True),
    "ppo, long answers": Setting("ppo", 448, 6, 7, 7, 1216, 36000, False, 64, (
        "sampling.max_new_tokens=320", "ppo.fused_adamw=true"), frozen=True),
    "ppo, Qwen3, bfloat16": Setting("ppo", 512, 7, 8, 4, 1536, 30000, False, 160, (
        "model.dtype=bfloat16", "ppo.gradient_checkpointing=true"), "qwen3", True),
    # Needs bitsandbytes.
    "sft, 4 bits": Setting("sft", 768, 12, 12, 4, 2048, 32000, False, 512, (
        "lora.r=16", "lora.merge=false", "lora.load_in_4bit=true"), frozen=True),
}  # fmt: skip


def main(
    settings: dict[str, Setting],
    folder: Path,
    kept: bool = False,
    side: str = "bench.planning:measure",
) -> None:
    """Measure each setting by a call of `side`, and print a line for it; `kept` also measures glibc's default."""
    found = []
    print(f"{'MiB':<24}{'planned':>10}{'measured':>10}{'ratio':>7}{'glibc default' if kept else '':>20}")
    for name, setting in settings.items():
        if "lora.load_in_4bit=true" in setting.overrides and find_spec("bitsandbytes") is None:
            print(f"{name}: skipped, bitsandbytes is not installed")
            continue
        home = folder.resolve() / "planning" / name.replace(", ", "-").replace(" ", "-")
        given = {"setting": asdict(setting), "home": str(home)}
        planned = run_side("bench.planning:plan_peak", given)["mib"]
        exact = run_side(side, given, environment=MALLOC_ENVIRONMENT)["mib"]
        row = {"setting": name, **asdict(setting), "planned": planned, "measured": exact}
        met = "" if abs(planned / exact - 1) <= MAX_DEVIATION else "  MISSED"
        line = f"{name:<24}{planned:>10,.0f}{exact:>10,.0f}{planned / exact:>7.2f}{met}"
        if kept:
            row["as_glibc_keeps"] = run_side(side, given)["mib"]
            line += f"{row['as_glibc_keeps']:>20,.0f}"
        print(line, flush=True)
        found.append(row)
    (folder / "planning.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def plan_peak(setting: dict[str, Any], home: str) -> dict[str, float]:
    """Return the planned peak in MiB; writes the setting's models and data if they do not exist yet."""
    from plan.recipe import planned_recipe
    from plan.stages import planning

    asked = Setting(**setting)
    make_inputs(asked, Path(home))
    recipe = planned_recipe(f"{home}/{asked.stage}.yaml", asked.plan_overrides)
    return {"mib": planning(recipe).peak.total / 2**20}


def measure(setting: dict[str, Any], home: str) -> dict[str, float]:
    """Run the stage from the start and return its peak in MiB, above the memory after the imports."""
    shutil.rmtree(f"{home}/run", ignore_errors=True)
    return {"mib": measure_run(setting, home)}


def measure_run(setting: dict[str, Any], home: str) -> float:
    """Run the stage in this process and return its peak in MiB, above the memory after the imports."""
    from bench.clock import reset_peak_memory
    from engine.dist.devices import peak_memory

    train, recipe = load_stage(setting["stage"], home, setting["overrides"])
    before = reset_peak_memory()
    train(recipe)
    return (peak_memory() - before) / 2**20


def load_stage(name: str, home: str, overrides: Sequence[str]) -> tuple[Callable[[Any], None], Any]:
    """Return the stage's train function and the recipe in `home`; imports everything that the run imports."""
    import peft  # noqa: F401
    from trl import RewardTrainer, SFTTrainer  # noqa: F401

    from config import load
    from config.schema import Recipe
    from ppo.recipe import PPO
    from ppo.train import train as train_ppo
    from reward.recipe import Reward
    from reward.train import train as train_reward
    from sft.recipe import SFT
    from sft.train import train as train_sft

    stages: dict[str, tuple[type[Recipe], Callable[[Any], None]]] = {
        "sft": (SFT, train_sft),
        "reward": (Reward, train_reward),
        "ppo": (PPO, train_ppo),
    }
    schema, train = stages[name]
    return train, load(schema, f"{home}/{name}.yaml", overrides)


def make_inputs(setting: Setting, home: Path) -> None:
    """Write a base model, a reward model, a byte tokenizer, data and a recipe, if `home` does not have them yet."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from bench.ppo import bytes_tokenizer
    from config.sections import Model
    from engine.dist.devices import move
    from engine.models.loading import new_scalar
    from engine.models.saving import save_model
    from engine.models.tokenizer import load_tokenizer

    if (home / "ready").exists():
        return
    torch.manual_seed(0)
    kinds = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}
    config_class, model_class = kinds[setting.family]
    config = config_class(
        vocab_size=setting.vocabulary, hidden_size=setting.hidden, intermediate_size=setting.intermediate,
        num_hidden_layers=setting.layers, num_attention_heads=setting.heads, num_key_value_heads=setting.keys,
        tie_word_embeddings=setting.tied, max_position_embeddings=8192,
        **({"head_dim": setting.hidden // setting.heads} if setting.family == "qwen3" else {}),
    )  # fmt: skip
    model_class(config).to(torch.bfloat16).save_pretrained(home / "base")  # as published weights are
    bytes_tokenizer().save_pretrained(home / "base")
    section = Model(path=str(home / "base"), dtype="float32")
    prepared = load_tokenizer(section.path)
    reward = new_scalar(section.path, section, prepared, seed=1)
    move(reward, dtype=torch.bfloat16)
    save_model(reward, prepared, home / "reward")

    write_data(home, setting.length - 1, setting.length - CHATML_TOKENS, setting.length - CHATML_TOKENS - 20)
    (home / f"{setting.stage}.yaml").write_text(RECIPES[setting.stage].format(home=home, length=setting.length))
    (home / "ready").touch()


def write_data(home: Path, text: int, prompt: int, answer: int) -> None:
    """Write 48 random texts, prompts and comparisons; lengths are in letters, each of which is one token."""
    drawn = random.Random(0)
    records = [
        {"text.jsonl": {"text": random_letters(drawn, text)},
         "prompts.jsonl": {"prompt": random_letters(drawn, prompt)},
         "pairs.jsonl": {"prompt": random_letters(drawn, 20), **{key: random_letters(drawn, answer) for key in SIDES}}}
        for _ in range(48)
    ]  # fmt: skip
    for name in records[0]:
        (home / name).write_text("".join(json.dumps(row[name]) + "\n" for row in records))


def random_letters(drawn: Any, count: int) -> str:
    return "".join(drawn.choice("abcdefghijklmno ") for _ in range(count))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.planning", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"{'; '.join(SETTINGS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="folder for models and results")
    parser.add_argument("--kept", action="store_true", help="also measure with glibc's default; takes twice the time")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.settings if name not in SETTINGS]:
        parser.error(f"unknown setting {unknown[0]}; use {'; '.join(SETTINGS)}")
    asked = {name: SETTINGS[name] for name in arguments.settings or SETTINGS}
    main(asked, arguments.folder, arguments.kept)
