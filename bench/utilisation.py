"""What training makes of a device: tokens a second, the share of its speed that this is, and memory at the peak.

    python -m bench.utilisation [SETTING ...]     names or patterns of names; what suits this machine by default

A setting is SIZE/STAGE/METHOD/LENGTH/TYPE, for one 7b/sft/lora/2048/bfloat16: some steps of the stage as its command
runs it, in a process of its own, on random weights. Its length is that of a sequence, of each side of a comparison,
or of a prompt and its answer, half each. SFT and reward models take one sequence or comparison at once and 8 a step, as
the report's table does. Results are written after every setting, into utilisation.json and utilisation.md; what is
there already is left out. Speed is that of a large matrix product of the type, in the same process, before and after.
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

from bench.planning import RECIPES, stage, write_data
from bench.race import alone
from bench.utilisation_table import Row, table
from engine.files import durable
from plan.shape import PUBLISHED

# One at a time, so many a step: the report's table (README of Qwen).
A_STEP = 8
# Tokens of ChatML around a question; around a question and its answer.
OPENING, AROUND, SHORTEST = 19, 20, 64
LENGTHS = {True: {"sft": (512, 2048), "reward": (1024,), "ppo": (512,)},
           False: {"sft": (512,), "reward": (256,), "ppo": (128,)}}  # fmt: skip
FULL = "out of memory"
METHODS = ("lora", "all", "qlora")
# Without 7b/ppo/all, whose two trained models no GPU holds.
ON_A_GPU = tuple(
    f"{name}/bfloat16" for name in ("0.5b/*", "1.8b/*", "7b/sft/*", "7b/reward/*", "7b/ppo/lora/*", "7b/ppo/qlora/*")
)
ON_A_CPU = ("7m/*", "40m/*")


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    heads: int
    keys: int
    """heads of keys and values"""
    intermediate: int
    vocabulary: int
    tied: bool
    rank: int
    """of adapters"""
    queries: int
    """prompts in a step of PPO, of two answers each"""
    large: bool
    """whether it is for a GPU, where activations are computed again in the backward pass"""


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
    """lora, all (weights), qlora: adapters on a base in 4 bits"""
    length: int
    dtype: str
    size: Size


def settings(lengths: Sequence[int] = ()) -> dict[str, Setting]:
    """All there are, of these lengths or of each stage's own."""
    return {
        name: Setting(name, stage, method, length, dtype, size)
        for size_name, size in SIZES.items()
        for stage, own in LENGTHS[size.large].items()
        for method in METHODS
        for length in lengths or own
        for dtype in ("float32", "bfloat16")
        for name in [f"{size_name}/{stage}/{method}/{length}/{dtype}"]
    }


def asked_for(patterns: Sequence[str], lengths: Sequence[int]) -> list[Setting]:
    """What patterns name. Raises ValueError where that is nothing, or a length is too short for what it holds."""
    if min(lengths, default=SHORTEST) < SHORTEST:
        raise ValueError(f"no length may be below {SHORTEST}")
    known = settings(lengths)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in known):
            names = " / ".join("|".join(part) for part in (SIZES, LENGTHS[True], METHODS))
            raise ValueError(f"no setting is called {pattern}; there are {names} / LENGTH / float32|bfloat16")
    return [setting for name, setting in known.items() if any(fnmatch(name, pattern) for pattern in patterns)]


def main(
    asked: Sequence[Setting], folder: Path, steps: int, seconds: float, again: bool = False,
    side: str = "bench.utilisation:measured",
) -> None:  # fmt: skip
    """Measure what has not been measured by calls of `side`, and print and write the table as it grows."""
    written = folder / "utilisation.json"
    rows: dict[str, Row] = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
    for setting in asked:
        name, before = setting.name, rows.get(setting.name, {})
        if not again and ("seconds" in before or before.get("said") == FULL):
            print(f"{name}: measured already, on {before['device']} (--again measures it anew)")
        elif setting.method == "qlora" and find_spec("bitsandbytes") is None:
            print(f"{name}: left out, bitsandbytes is not installed")
        else:
            rows[name] = measured_alone(setting, folder, steps, seconds, side) | {"length": setting.length}
            print(table({name: rows[name]}).splitlines()[-1], flush=True)
            durable.write_json(written, rows)
            durable.write_text(folder / "utilisation.md", table(rows) + "\n")
    print(f"\n{table(rows)}\n\n{written}: written")


def measured_alone(setting: Setting, folder: Path, steps: int, seconds: float, side: str) -> Row:
    """What a process of its own finds, or what became of it."""
    models = made(setting, folder)
    home = folder.resolve() / "utilisation" / setting.name.replace("/", "-")
    given = {"setting": asdict(setting), "home": str(home), "models": str(models), "steps": steps, "seconds": seconds}
    try:
        return alone(side, given, seconds=seconds)
    except subprocess.TimeoutExpired:
        said = f"no step was timed within {seconds:g} s"
    except RuntimeError as error:
        text = str(error).strip()
        full = any(words in text for words in ("MemoryError", "DefaultCPUAllocator", "ended by signal 9"))
        said = FULL if full else text.splitlines()[-1]
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return {"said": said, "device": alone("bench.utilisation:device", {})}  # here it would take some of the device


def made(setting: Setting, folder: Path) -> Path:
    """The folder of a size's models, made at the first call."""
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
    """What differs from bench/planning.py's recipe of the stage."""
    size, lora, four = setting.size, setting.method != "all", setting.method == "qlora"
    again = str(size.large).lower()
    changes = [f"model.dtype={setting.dtype}", f"model.path={models}/base"]
    if setting.stage != "ppo":
        changes += ["trainer.max_steps=100000", f"trainer.gradient_accumulation_steps={A_STEP}",
                    f"trainer.gradient_checkpointing={again}", "trainer.logging_steps=100000"]  # fmt: skip
        return changes + [f"lora.r={size.rank}"] * lora + ["lora.merge=false", "lora.load_in_4bit=true"] * four
    changes += [f"reward.path={models}/reward", f"sampling.max_new_tokens={setting.length // 2}", "ppo.steps=100000",
                f"ppo.queries_per_step={size.queries}", "ppo.micro_batch_tokens=16384", "ppo.fused_adamw=true",
                f"ppo.gradient_checkpointing={again}", "watch.show_samples_every=0"]  # fmt: skip
    if lora:
        changes += ["models=shared", f"model.path={models}/sft-adapter", f"reward.path={models}/reward-adapter"]
    return changes + ["ppo.load_in_4bit=true"] * four


def measured(setting: dict[str, Any], home: str, models: str, steps: int, seconds: float) -> Row:
    """Figures of the stage, in this process; it ends by itself in time, once a step has been timed."""
    from bench.clock import begin_peak
    from bench.timed import StepTimes
    from plan.recipe import planned_recipe
    from plan.stages import planning

    asked = Setting(**{**setting, "size": Size(**setting["size"])})
    ppo, length, cuda = asked.stage == "ppo", asked.length, torch.cuda.is_available()
    half = length // 2 if ppo else length
    Path(home).mkdir(parents=True)
    write_data(Path(home), text=(512 if ppo else length) - 1, prompt=half - OPENING, answer=length - AROUND - 20)
    Path(home, f"{asked.stage}.yaml").write_text(RECIPES[asked.stage].format(home=home, length=half))
    changes = overrides(asked, models)
    train, recipe = stage(asked.stage, home, changes)
    speed, before = product_flops(asked.dtype), begin_peak()
    times = StepTimes(steps, 0.8 * seconds)
    with times.watching():
        train(recipe)
    gc.collect()  # what the run held
    speed = max(speed, product_flops(asked.dtype))

    if ppo:
        answers = asked.size.queries * recipe.ppo.responses_per_query
        seen = [f"plan.prompt_tokens={half}", f"plan.response_tokens={round(times.tokens_a_step / answers)}"]
    else:
        seen = [f"plan.row_tokens={round(times.tokens_a_step / A_STEP)}", f"plan.sequence_tokens={length}"]
    plan = planning(planned_recipe(
        f"{home}/{asked.stage}.yaml", [*changes, *seen, f"plan.device={'h100' if cuda else 'cpu'}"]
    ))  # fmt: skip
    phases = {name: times.phase(f"{name}_seconds") for name in ("sample", "score", "learn")} if ppo else {}
    return {
        "device": device(), "seconds": times.seconds, "steps": times.timed, "tokens": times.tokens_a_step,
        "phases": phases, "flops": plan.work.flops, "again": plan.work.again, "product_flops": speed,
        "peak": times.peak - before, "planned": plan.peak.total,
    }  # fmt: skip


def product_flops(dtype: str) -> float:
    """Operations a second of a large matrix product here."""
    from plan.work import measured_flops

    # A GPU's clock has to rise first.
    place, size, times = ("cuda", 8192, 50) if torch.cuda.is_available() else ("cpu", 2048, 5)
    return measured_flops(size, getattr(torch, dtype), place, times)


def device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, threads: {torch.get_num_threads()}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.utilisation", description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="SETTING", help="such as 7b/sft/lora/2048/bfloat16, '1.8b/*'")
    parser.add_argument("--lengths", nargs="+", type=int, default=[], help="other lengths than each stage's own")
    parser.add_argument("--steps", type=int, default=3, help="how many are timed, after two")
    parser.add_argument("--seconds", type=float, default=240, help="for a setting, its start included")
    parser.add_argument("--again", action="store_true", help="also what has been measured")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="where models and results go")
    given = parser.parse_args()
    # peft still asks transformers by a name that transformers has deprecated.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    if given.steps < 1:
        parser.error("--steps is at least 1")
    try:
        found = asked_for(given.settings or (ON_A_GPU if torch.cuda.is_available() else ON_A_CPU), given.lengths)
    except ValueError as error:
        parser.error(str(error))
    main(found, given.folder, given.steps, given.seconds, given.again)
