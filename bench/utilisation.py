"""Tokens per second, utilisation of the device and peak memory of training.

    python -m bench.utilisation [SETTING ...]     names or patterns of names; default: those that suit this machine

A setting is SIZE/STAGE/METHOD/LENGTH/TYPE, such as 7b/sft/lora/2048/bfloat16. It runs some steps of the real stage in
a separate process, on random weights. LENGTH is in tokens: of a sequence, of each side of a comparison, or of a prompt
and its response together, half each. SFT and reward models process one sequence or comparison at a time and 8 per step,
as in the table of Qwen's README. Results are written to utilisation.json and utilisation.md after every setting;
settings that are already there are skipped. Utilisation is relative to the speed of a large matrix product of the same
dtype, measured in the same process before and after the steps.
"""

import argparse
import gc
import json
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from bench.planning import RECIPES, load_stage, write_data
from bench.race import run_side
from bench.utilisation_table import Row, table
from engine.files import durable
from plan.shape import PUBLISHED

# Sequences or comparisons per step, one at a time, as in the table in Qwen's README.
SEQUENCES_PER_STEP = 8
# ChatML tokens around a prompt, and around a prompt and its response; the shortest LENGTH allowed.
QUESTION_CHATML_TOKENS, PAIR_CHATML_TOKENS, MIN_LENGTH = 19, 20, 64
LENGTHS: dict[bool, dict[str, tuple[int, ...]]] = {
    True: {"sft": (512, 2048), "reward": (1024,), "ppo": (512,)},
    False: {"sft": (512,), "reward": (256,), "ppo": (128,)},
}
OUT_OF_MEMORY = "out of memory"
METHODS = ("lora", "all", "qlora")
# Without 7b/ppo/all: its two trained models fit no GPU.
GPU_SETTINGS = tuple(
    f"{name}/bfloat16" for name in ("0.5b/*", "1.8b/*", "7b/sft/*", "7b/reward/*", "7b/ppo/lora/*", "7b/ppo/qlora/*")
)
CPU_SETTINGS = ("7m/*", "40m/*")


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    heads: int
    keys: int
    """key-value heads"""
    intermediate: int
    vocabulary: int
    tied: bool
    rank: int
    """LoRA rank"""
    queries: int
    """prompts per PPO step, with two responses each"""
    large: bool
    """whether the size is for a GPU; it then uses gradient checkpointing"""


SIZES = {
    "7m": Size(256, 4, 4, 4, 736, 8000, False, 16, 8, False),
    "40m": Size(512, 8, 8, 8, 1408, 16000, False, 16, 4, False),
    **{
        name.rpartition("-")[2].lower(): Size(*PUBLISHED[name][:7], 64, 16, True)
        for name in ("Qwen/Qwen1.5-0.5B", "Qwen/Qwen1.5-1.8B", "Qwen/Qwen1.5-7B")
    },
}


@dataclass(frozen=True)
class Setting:
    name: str
    stage: str
    method: str
    """lora, all (train all weights), or qlora (adapters on a 4-bit base)"""
    length: int
    dtype: str
    size: Size


def settings(lengths: Sequence[int] = ()) -> dict[str, Setting]:
    """Return name -> setting for all settings, with these lengths or the default ones of each stage."""
    return {
        name: Setting(name, stage, method, length, dtype, size)
        for size_name, size in SIZES.items()
        for stage, own in LENGTHS[size.large].items()
        for method in METHODS
        for length in lengths or own
        for dtype in ("float32", "bfloat16")
        for name in [f"{size_name}/{stage}/{method}/{length}/{dtype}"]
    }


def matching_settings(patterns: Sequence[str], lengths: Sequence[int]) -> list[Setting]:
    """Return the settings that match. Raises ValueError if a pattern matches none or a length is too short."""
    if min(lengths, default=MIN_LENGTH) < MIN_LENGTH:
        raise ValueError(f"--lengths must be at least {MIN_LENGTH}")
    known = settings(lengths)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in known):
            names = " / ".join("|".join(part) for part in (list(SIZES), list(LENGTHS[True]), METHODS))
            raise ValueError(f"unknown setting {pattern}; use {names} / LENGTH / float32|bfloat16")
    return [setting for name, setting in known.items() if any(fnmatch(name, pattern) for pattern in patterns)]


def main(
    asked: Sequence[Setting], folder: Path, steps: int, seconds: float, again: bool = False,
    side: str = "bench.utilisation:measure",
) -> None:  # fmt: skip
    """Measure the missing settings by calls of `side`; print and write the table after each."""
    written = folder / "utilisation.json"
    rows: dict[str, Row] = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
    for setting in asked:
        name, before = setting.name, rows.get(setting.name, {})
        if not again and ("seconds" in before or before.get("said") == OUT_OF_MEMORY):
            print(f"{name}: measured already, on {before['device']} (--again measures it again)")
        elif setting.method == "qlora" and find_spec("bitsandbytes") is None:
            print(f"{name}: skipped, bitsandbytes is not installed")
        else:
            rows[name] = measure_in_process(setting, folder, steps, seconds, side) | {"length": setting.length}
            print(table({name: rows[name]}).splitlines()[-1], flush=True)
            durable.write_json(written, rows)
            durable.write_text(folder / "utilisation.md", table(rows) + "\n")
    print(f"\n{table(rows)}\n\n{written}: written")


def measure_in_process(setting: Setting, folder: Path, steps: int, seconds: float, side: str) -> Row:
    """Run `side` in a new process and return its row; if it fails, a row with the reason in "said"."""
    models = make_models(setting, folder)
    home = folder.resolve() / "utilisation" / setting.name.replace("/", "-")
    given = {"setting": asdict(setting), "home": str(home), "models": str(models), "steps": steps, "seconds": seconds}
    try:
        return run_side(side, given, seconds=seconds)
    except subprocess.TimeoutExpired:
        reason = f"no step was timed within {seconds:g} s"
    except RuntimeError as error:
        text = str(error).strip()
        full = any(words in text for words in ("MemoryError", "DefaultCPUAllocator", "ended by signal 9"))
        reason = OUT_OF_MEMORY if full else text.splitlines()[-1]
    finally:
        shutil.rmtree(home, ignore_errors=True)
    # In a new process, since asking for the GPU here would occupy memory on it.
    return {"said": reason, "device": run_side("bench.utilisation:device_name", {})}


def make_models(setting: Setting, folder: Path) -> Path:
    """Return the folder of a size's models; the first call writes it."""
    home = folder / "utilisation" / setting.name.partition("/")[0]
    if not home.exists():
        from bench.random_models import write_models

        size = setting.size
        config = AutoConfig.for_model(
            "qwen2", hidden_size=size.hidden, num_hidden_layers=size.layers, num_attention_heads=size.heads,
            num_key_value_heads=size.keys, intermediate_size=size.intermediate, vocab_size=size.vocabulary,
            tie_word_embeddings=size.tied, max_position_embeddings=32768,
        )  # fmt: skip
        write_models(config, size.rank, home)
    return home.resolve()


def overrides(setting: Setting, models: str) -> list[str]:
    """Return the overrides of the stage's recipe in bench/planning.py."""
    size, lora, four = setting.size, setting.method != "all", setting.method == "qlora"
    again = str(size.large).lower()
    changes = [f"model.dtype={setting.dtype}", f"model.path={models}/base"]
    if setting.stage != "ppo":
        changes += ["trainer.max_steps=100000", f"trainer.gradient_accumulation_steps={SEQUENCES_PER_STEP}",
                    f"trainer.gradient_checkpointing={again}", "trainer.logging_steps=100000"]  # fmt: skip
        return changes + [f"lora.r={size.rank}"] * lora + ["lora.merge=false", "lora.load_in_4bit=true"] * four
    changes += [f"reward.path={models}/reward", f"sampling.max_new_tokens={setting.length // 2}", "ppo.steps=100000",
                f"ppo.queries_per_step={size.queries}", "ppo.micro_batch_tokens=16384", "ppo.fused_adamw=true",
                f"ppo.gradient_checkpointing={again}", "watch.show_samples_every=0"]  # fmt: skip
    if lora:
        changes += ["models=shared", f"model.path={models}/sft-adapter", f"reward.path={models}/reward-adapter"]
    return changes + ["ppo.load_in_4bit=true"] * four


def measure(setting: dict[str, Any], home: str, models: str, steps: int, seconds: float) -> Row:
    """Run the stage in this process and return its row; `seconds` is the time limit, once a step is timed."""
    from bench.clock import reset_peak_memory
    from bench.timed import StepTimes
    from plan.recipe import planned_recipe
    from plan.stages import planning

    asked = Setting(**{**setting, "size": Size(**setting["size"])})
    ppo, length, cuda = asked.stage == "ppo", asked.length, torch.cuda.is_available()
    half = length // 2 if ppo else length
    Path(home).mkdir(parents=True)
    write_data(
        Path(home),
        text=(512 if ppo else length) - 1,
        prompt=half - QUESTION_CHATML_TOKENS,
        answer=length - PAIR_CHATML_TOKENS - 20,
    )
    Path(home, f"{asked.stage}.yaml").write_text(RECIPES[asked.stage].format(home=home, length=half))
    changes = overrides(asked, models)
    train, recipe = load_stage(asked.stage, home, changes)
    speed, before = matmul_flops_per_second(asked.dtype), reset_peak_memory()
    times = StepTimes(steps, 0.8 * seconds)
    with times.recording():
        train(recipe)
    gc.collect()  # frees the memory of the run
    speed = max(speed, matmul_flops_per_second(asked.dtype))

    if ppo:
        answers = asked.size.queries * recipe.ppo.responses_per_query
        seen = [f"plan.prompt_tokens={half}", f"plan.response_tokens={round(times.tokens_per_step / answers)}"]
    else:
        seen = [
            f"plan.row_tokens={round(times.tokens_per_step / SEQUENCES_PER_STEP)}",
            f"plan.sequence_tokens={length}",
        ]
    plan = planning(
        planned_recipe(f"{home}/{asked.stage}.yaml", [*changes, *seen, f"plan.device={'h100' if cuda else 'cpu'}"])
    )
    phases = {name: times.phase_seconds(f"{name}_seconds") for name in ("sample", "score", "learn")} if ppo else {}
    return {
        "device": device_name(), "seconds": times.seconds_per_step, "steps": times.num_timed,
        "tokens": times.tokens_per_step, "phases": phases, "flops": plan.work.flops, "again": plan.work.again,
        "product_flops": speed, "peak": times.peak - before, "planned": plan.peak.total,
    }  # fmt: skip


def matmul_flops_per_second(dtype: str) -> float:
    """Return the operations per second of a large matrix product on this device."""
    from plan.work import measured_flops

    # On a GPU many repetitions, so that its clock has risen.
    place, size, times = ("cuda", 8192, 50) if torch.cuda.is_available() else ("cpu", 2048, 5)
    return measured_flops(size, getattr(torch, dtype), place, times)


def device_name() -> str:
    """Return the name of the GPU, or "CPU, threads: N"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, threads: {torch.get_num_threads()}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.utilisation", description=__doc__.splitlines()[0])
    parser.add_argument(
        "settings", nargs="*", metavar="SETTING", help="for example 7b/sft/lora/2048/bfloat16 or '1.8b/*'"
    )
    parser.add_argument(
        "--lengths", nargs="+", type=int, default=[], help="lengths in place of each stage's default ones"
    )
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after two warm-up steps")
    parser.add_argument("--seconds", type=float, default=240, help="time limit of a setting, including its start")
    parser.add_argument("--again", action="store_true", help="also measure settings that have results already")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="folder for models and results")
    given = parser.parse_args()
    # peft still uses a name that transformers has deprecated.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    if given.steps < 1:
        parser.error("--steps must be at least 1")
    try:
        found = matching_settings(
            given.settings or (GPU_SETTINGS if torch.cuda.is_available() else CPU_SETTINGS), given.lengths
        )
    except ValueError as error:
        parser.error(str(error))
    main(found, given.folder, given.steps, given.seconds, given.again)
