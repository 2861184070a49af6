"""What a plan says beside what its run takes: peak memory of real stages on a CPU, random weights, a few steps.

    python -m bench.planning [SETTING ...]       all of them by default; a table, and runs/bench/planning.json

Measured is the peak of resident memory above what stood after the imports, in a process of its own. It has
MALLOC_MMAP_THRESHOLD_ set: glibc then gives large blocks back as soon as they are free, so that resident memory is what
is in use, as an allocator's count on a GPU is. `--kept` measures without it too: up to twice as much.
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

from bench.race import alone

EXACT = {"MALLOC_MMAP_THRESHOLD_": "131072"}
BAR = 0.15
# Tokens of ChatML around a question and its answer.
AROUND, SIDES = 26, ("chosen", "rejected")


@dataclass(frozen=True)
class Setting:
    """A stage's run: the model's shape, and what differs from the recipe below."""

    stage: str
    hidden: int
    layers: int
    heads: int
    keys: int
    """heads of keys and values"""
    intermediate: int
    vocabulary: int
    tied: bool
    length: int
    """tokens in a row, in a side of a comparison, or in a prompt"""
    overrides: tuple[str, ...] = ()
    family: str = "qwen2"
    frozen: bool = False
    """whether it was chosen after the formulas were"""
    hardware: str = ""
    """how two processes share the model, if they do: a file of recipes/accelerate/"""

    @property
    def planned_with(self) -> list[str]:
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
    # Chosen after the formulas were.
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
    # A second round, after what the first had missed was mended.
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
    # With bitsandbytes installed.
    "sft, 4 bits": Setting("sft", 768, 12, 12, 4, 2048, 32000, False, 512, (
        "lora.r=16", "lora.merge=false", "lora.load_in_4bit=true"), frozen=True),
}  # fmt: skip


def main(
    settings: dict[str, Setting],
    folder: Path,
    kept: bool = False,
    side: str = "bench.planning:measured",
) -> None:
    """Measure by calls of `side`, and print a line a setting; `kept` runs each as it is as well."""
    found = []
    print(f"{'MiB':<24}{'planned':>10}{'measured':>10}{'ratio':>7}{'as glibc keeps it' if kept else '':>20}")
    for name, setting in settings.items():
        if "lora.load_in_4bit=true" in setting.overrides and find_spec("bitsandbytes") is None:
            print(f"{name}: left out, bitsandbytes is not installed")
            continue
        home = folder.resolve() / "planning" / name.replace(", ", "-").replace(" ", "-")
        given = {"setting": asdict(setting), "home": str(home)}
        planned = alone("bench.planning:planned", given)["mib"]
        exact = alone(side, given, environment=EXACT)["mib"]
        row = {"setting": name, **asdict(setting), "planned": planned, "measured": exact}
        met = "" if abs(planned / exact - 1) <= BAR else "  MISSED"
        line = f"{name:<24}{planned:>10,.0f}{exact:>10,.0f}{planned / exact:>7.2f}{met}"
        if kept:
            row["as_glibc_keeps"] = alone(side, given)["mib"]
            line += f"{row['as_glibc_keeps']:>20,.0f}"
        print(line, flush=True)
        found.append(row)
    (folder / "planning.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def planned(setting: dict[str, Any], home: str) -> dict[str, float]:
    """The plan's peak; makes the setting's models and data where they are not there yet."""
    from plan.recipe import planned_recipe
    from plan.stages import planning

    asked = Setting(**setting)
    made(asked, Path(home))
    recipe = planned_recipe(f"{home}/{asked.stage}.yaml", asked.planned_with)
    return {"mib": planning(recipe).peak.total / 2**20}


def measured(setting: dict[str, Any], home: str) -> dict[str, float]:
    """The stage as its command runs it: the peak above what stood after the imports."""
    shutil.rmtree(f"{home}/run", ignore_errors=True)
    return {"mib": one_run(setting, home)}


def one_run(setting: dict[str, Any], home: str) -> float:
    """MiB that this process takes for a run."""
    from bench.clock import begin_peak
    from engine.dist.devices import peak_memory

    train, recipe = stage(setting["stage"], home, setting["overrides"])
    before = begin_peak()
    train(recipe)
    return (peak_memory() - before) / 2**20


def stage(name: str, home: str, overrides: Sequence[str]) -> tuple[Callable[[Any], None], Any]:
    """What runs a stage and the recipe in `home`; with it all is imported that its run imports."""
    import peft  # noqa: F401
    from trl import RewardTrainer, SFTTrainer  # noqa: F401

    from config import load
    from ppo.recipe import PPO
    from ppo.train import train as train_ppo
    from reward.recipe import Reward
    from reward.train import train as train_reward
    from sft.recipe import SFT
    from sft.train import train as train_sft

    stages = {"sft": (SFT, train_sft), "reward": (Reward, train_reward), "ppo": (PPO, train_ppo)}
    schema, train = stages[name]
    return train, load(schema, f"{home}/{name}.yaml", overrides)


def made(setting: Setting, home: Path) -> None:
    """A base, a reward model, a tokenizer of bytes, data and a recipe, at the first call."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    from bench.ppo import bytes_tokenizer
    from config.sections import Model
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
    reward = new_scalar(section.path, section, prepared, seed=1).to(torch.bfloat16)
    save_model(reward, prepared, home / "reward")

    write_data(home, setting.length - 1, setting.length - AROUND, setting.length - AROUND - 20)
    (home / f"{setting.stage}.yaml").write_text(RECIPES[setting.stage].format(home=home, length=setting.length))
    (home / "ready").touch()


def write_data(home: Path, text: int, prompt: int, answer: int) -> None:
    """48 texts, prompts and comparisons of as many letters, each of which is a token."""
    drawn = random.Random(0)
    said = [
        {"text.jsonl": {"text": letters(drawn, text)}, "prompts.jsonl": {"prompt": letters(drawn, prompt)},
         "pairs.jsonl": {"prompt": letters(drawn, 20), **{key: letters(drawn, answer) for key in SIDES}}}
        for _ in range(48)
    ]  # fmt: skip
    for name in said[0]:
        (home / name).write_text("".join(json.dumps(row[name]) + "\n" for row in said))


def letters(drawn: Any, count: int) -> str:
    return "".join(drawn.choice("abcdefghijklmno ") for _ in range(count))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.planning", description=__doc__)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"{'; '.join(SETTINGS)}")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="where models and results go")
    parser.add_argument("--kept", action="store_true", help="run each as it is as well, which takes twice the time")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.settings if name not in SETTINGS]:
        parser.error(f"no setting is called {unknown[0]}; use {'; '.join(SETTINGS)}")
    asked = {name: SETTINGS[name] for name in arguments.settings or SETTINGS}
    main(asked, arguments.folder, arguments.kept)
