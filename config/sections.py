"""The sections that stages share, and the keys that name models; data sections stand in config/data.py."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import MISSING

from config.schema import RecipeError, Section, number, setting, show

Dtype = Literal["auto", "float32", "bfloat16"]
Attention = Literal["auto", "packed", "sdpa", "eager", "flash_attention_2"]

# Tracker -> its package: those that accelerate (PPO) and transformers (the other stages) both know.
TRACKERS = {
    "tensorboard": "tensorboard",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
    "comet_ml": "comet-ml",
    "clearml": "clearml",
    "dvclive": "dvclive",
    "swanlab": "swanlab",
}

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Names are parts of dotted keys (differences.NAME.answers), of metrics, of "A|B" and of files.
NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Model(Section):
    path: str = MISSING
    """a folder that `from_pretrained` loads, or a hub id"""
    revision: str | None = None
    """branch, tag or commit of a hub id"""
    dtype: Dtype = "auto"
    """type of the computation: trained weights stay float32 and are autocast, frozen models are stored in it; auto is
    bfloat16 on a GPU that is good at it, float32 elsewhere"""
    attention: Attention = setting("auto", changeable=True)
    """auto is flash-attn where it is installed and the device can run it, torch's own elsewhere"""
    attention_dropout: float = number(0.0, least=0, below=1)
    """share of attention weights dropped in training; the only dropout that Qwen2 classes have (report, 3.1.2: 0.1)"""

    def check(self, key: str) -> None:
        model_paths(self.path, f"{key}.path")


@dataclass(frozen=True)
class Compute(Section):
    """How models are computed with, in recipes that name their models elsewhere."""

    dtype: Dtype = "auto"
    """type in which the models are stored; auto is bfloat16 on a GPU that is good at it, float32 elsewhere"""
    attention: Attention = "auto"
    """auto is flash-attn where it is installed and the device can run it, torch's own elsewhere"""

    def model(self, path: str) -> Model:
        """Return the section `model` of the model at `path`."""
        return Model(path=path, dtype=self.dtype, attention=self.attention)


@dataclass(frozen=True)
class Lora(Section):
    r: int = number(0, least=0)
    """rank of the adapters; 0 finetunes all weights"""
    lora_alpha: int = number(16, least=1)
    """adapters are scaled by lora_alpha / r"""
    lora_dropout: float = number(0.0, least=0, below=1)
    """share of the adapters' inputs dropped in training"""
    target_modules: Any = "all-linear"
    """which layers get adapters: a name, a pattern, or a list of names, as peft takes them"""
    merge: bool = True
    """the finished model is merged with its adapters; false keeps the adapters alone, beside the name of their base"""
    train_tokens: bool = True
    """the embedding rows of the ChatML tokens are trained, too, and are saved in the adapter, which some servers (vLLM)
    refuse; false leaves these rows as the base has them"""
    load_in_4bit: bool = setting(False, packages={True: "bitsandbytes"})
    """the frozen base is stored in 4 bits by bitsandbytes (QLoRA: Dettmers et al. 2023): NF4, its scales in 8 bits"""

    def check(self, key: str) -> None:
        if self.load_in_4bit and self.r == 0:
            raise RecipeError(
                f"{key}.load_in_4bit=true holds weights that cannot be trained, and {key}.r=0 trains them all; "
                f"set {key}.r, or {key}.load_in_4bit=false",
                key=f"{key}.load_in_4bit",
            )
        if self.load_in_4bit and self.merge:
            raise RecipeError(
                f"{key}.load_in_4bit=true and {key}.merge=true would merge into weights of 4 bits; set "
                f"{key}.merge=false, and merge the finished adapters into the whole base with make merge",
                key=f"{key}.merge",
            )
        names = self.target_modules if isinstance(self.target_modules, list) else [self.target_modules]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise RecipeError(
                f"{key}.target_modules is {show(self.target_modules)}; it must be a name or a list of names",
                key=f"{key}.target_modules",
            )
        parts = [part.strip() for part in names[0].split(",")]
        if len(names) == 1 and len(parts) > 1 and all(re.fullmatch(r"[\w.]+", part) for part in parts):
            raise RecipeError(
                f"{key}.target_modules is {names[0]}, which is one name to peft; list them: "
                f"{key}.target_modules=[{','.join(parts)}]",
                key=f"{key}.target_modules",
            )


def refuse_tilde(folder: str, key: str) -> None:
    """Raise RecipeError for a folder at ~, which only a shell knows: one that is called ~ would be made."""
    if folder.startswith("~"):
        raise RecipeError(f"{key}={folder}: a recipe's ~ is not your home; write {os.path.expanduser(folder)}", key=key)


@dataclass(frozen=True)
class Run(Section):
    dir: str = setting(MISSING, changeable=True)
    """the run folder: metrics, checkpoints and the finished model"""
    seed: int = number(0, least=0, below=2**32)
    """seed of everything random in the run"""
    save_steps: int = number(100, least=1, changeable=True)
    """steps from one checkpoint to the next"""
    keep_checkpoints: int = number(2, least=1, changeable=True)
    """how many checkpoints are kept; the newest complete one always is"""
    report_to: list[str] = setting([], changeable=True, packages=TRACKERS)
    """trackers besides metrics.jsonl: tensorboard, wandb, trackio, mlflow, comet_ml, clearml, dvclive, swanlab"""

    def check(self, key: str) -> None:
        if not self.dir.strip():
            raise RecipeError(f"{key}.dir is empty; name a folder for the run", key=f"{key}.dir")
        refuse_tilde(self.dir, f"{key}.dir")
        if unknown := [name for name in self.report_to if name not in TRACKERS]:
            raise RecipeError(
                f"{key}.report_to has {unknown[0]}, which is no tracker; choose among {', '.join(TRACKERS)}, or leave "
                "it out",
                key=f"{key}.report_to",
            )


@dataclass(frozen=True)
class TrainingRun(Run):
    max_hours: float | None = number(None, above=0, changeable=True)
    """hours after its start by which the run has saved and left; the same command resumes it, under any other limit"""
    local_dir: str | None = setting(None, changeable=True)
    """a folder on a fast local disk: checkpoints are written there, and copied to `dir` while the run continues"""
    push_to_hub: str | None = setting(None, changeable=True)
    """owner/name of the hub's repository that gets the finished model, with a card made from the run folder"""
    hub_private: bool = setting(True, changeable=True)
    """the repository is private if the push has to make it"""

    def check(self, key: str) -> None:
        super().check(key)
        if self.local_dir is not None:
            refuse_tilde(self.local_dir, f"{key}.local_dir")
            local, folder = Path(self.local_dir.strip() or ".").resolve(), Path(self.dir).resolve()
            if not self.local_dir.strip() or folder in (local, *local.parents):
                raise RecipeError(
                    f"{key}.local_dir is {show(self.local_dir)}; name a folder on another disk than {key}.dir, "
                    "or leave it out",
                    key=f"{key}.local_dir",
                )
        if self.push_to_hub is not None and not HUB_ID.fullmatch(self.push_to_hub):
            raise RecipeError(
                f"{key}.push_to_hub is {show(self.push_to_hub)}; name a repository of the hub as owner/name",
                key=f"{key}.push_to_hub",
            )


@dataclass(frozen=True)
class Sampling(Section):
    top_p: float = number(0.9, above=0, most=1)
    """tokens are drawn from the smallest set that holds this much probability (report, 3.2.2: 0.9)"""
    temperature: float = number(1.0, above=0)
    """logits are divided by this before they become probabilities"""
    max_new_tokens: int = number(512, least=1)
    """a response that has not ended by then is cut off"""
    batch_size: int = number(256, least=1, changeable=True)
    """responses generated at the same time; changes memory and speed, not the random numbers"""


def check_name(name: str, key: str) -> None:
    """Raise RecipeError for a name of the user's that cannot stand in a dotted key."""
    if not NAME.fullmatch(name):
        raise RecipeError(
            f"{key} has the name {show(name)}; use letters, digits, _ and - alone, because names are parts of keys",
            key=key,
        )


def model_paths(value: Any, key: str) -> list[str]:
    """Return the models that a key names, a path or hub id or a list of them. Raise RecipeError, naming `key`."""
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path.strip() for path in paths):
        raise RecipeError(f"{key} is {show(value)}; it must be a path or a list of paths", key=key)
    return paths


def model_inputs(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield (key, path) of the models among `model_paths` that must be on this machine."""
    for path in model_paths(value, key):
        # The hub still knows a few models, gpt2 among them, by a name without owner.
        if "/" in path and not is_hub_id(path):
            yield key, path


def is_hub_id(path: str) -> bool:
    """Return whether `path` has the form owner/name and is not a path on this machine.

    A path whose first folder exists here is a path: a misspelt `runs/name` should not be looked for on the hub.
    """
    return HUB_ID.fullmatch(path) is not None and not Path(path).exists() and not Path(path).parent.is_dir()
