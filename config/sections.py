"""The sections that stages share, and checks of keys that name models. Data sections are in config/data.py."""

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

# Tracker -> its package: the trackers that both accelerate (PPO) and transformers (the other stages) support.
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
# Names become parts of dotted keys (differences.NAME.answers), metrics, "A|B" and file names.
NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class Model(Section):
    path: str = MISSING
    """a folder that `from_pretrained` loads, or a hub id"""
    revision: str | None = None
    """branch, tag or commit of a hub id"""
    dtype: Dtype = "auto"
    """dtype of the computation: trained weights are stored in float32 and autocast to it, frozen models are stored in
    it; auto is bfloat16 on GPUs that support it well, float32 elsewhere"""
    attention: Attention = setting("auto", changeable=True)
    """attention kernel: auto is flash-attn if it is installed and the device supports it, else torch's own"""
    attention_dropout: float = number(0.0, least=0, below=1)
    """dropout probability of attention weights, the only dropout that Qwen2 classes have (report, 3.1.2: 0.1)"""

    def check(self, key: str) -> None:
        model_paths(self.path, f"{key}.path")


@dataclass(frozen=True)
class Compute(Section):
    """dtype and attention kernel of models, for recipes that name their models elsewhere."""

    dtype: Dtype = "auto"
    """dtype in which the models are stored; auto is bfloat16 on GPUs that support it well, float32 elsewhere"""
    attention: Attention = "auto"
    """attention kernel: auto is flash-attn if it is installed and the device supports it, else torch's own"""

    def model(self, path: str) -> Model:
        """Return a section `model` for the model at `path`."""
        return Model(path=path, dtype=self.dtype, attention=self.attention)


@dataclass(frozen=True)
class Lora(Section):
    r: int = number(0, least=0)
    """rank of the LoRA adapters; 0 trains all weights"""
    lora_alpha: int = number(16, least=1)
    """adapters are scaled by lora_alpha / r"""
    lora_dropout: float = number(0.0, least=0, below=1)
    """dropout probability of the adapters' inputs"""
    target_modules: Any = "all-linear"
    """which layers get adapters: a name, a pattern, or a list of names, as in peft"""
    merge: bool = True
    """merge the adapters into the finished model; false saves the adapters alone, with the name of their base"""
    train_tokens: bool = True
    """train the embedding rows of the ChatML tokens too, and save them with the adapter, which some servers (vLLM)
    refuse to load; false keeps the base model's rows"""
    load_in_4bit: bool = setting(False, packages={True: "bitsandbytes"})
    """store the frozen base in 4 bits with bitsandbytes (QLoRA, Dettmers et al. 2023): NF4 with 8-bit scales"""

    def check(self, key: str) -> None:
        if self.load_in_4bit and self.r == 0:
            raise RecipeError(
                f"{key}.load_in_4bit=true stores weights that cannot be trained, and {key}.r=0 trains them all; "
                f"set {key}.r, or {key}.load_in_4bit=false",
                key=f"{key}.load_in_4bit",
            )
        if self.load_in_4bit and self.merge:
            raise RecipeError(
                f"{key}.load_in_4bit=true and {key}.merge=true would merge into 4-bit weights; set "
                f"{key}.merge=false, and merge the finished adapters into the full base with make merge",
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
                f"{key}.target_modules is {names[0]}, which peft reads as one name; list them: "
                f"{key}.target_modules=[{','.join(parts)}]",
                key=f"{key}.target_modules",
            )


def refuse_tilde(folder: str, key: str) -> None:
    """Raise RecipeError for a folder that starts with ~: only shells expand it, so a folder named ~ would be made."""
    if folder.startswith("~"):
        raise RecipeError(f"{key}={folder}: ~ is not expanded in recipes; write {os.path.expanduser(folder)}", key=key)


@dataclass(frozen=True)
class Run(Section):
    dir: str = setting(MISSING, changeable=True)
    """the run folder: metrics, checkpoints and the finished model"""
    seed: int = number(0, least=0, below=2**32)
    """seed of all random numbers in the run"""
    save_steps: int = number(100, least=1, changeable=True)
    """steps between checkpoints"""
    keep_checkpoints: int = number(2, least=1, changeable=True)
    """number of checkpoints to keep; the newest complete one is always kept"""
    report_to: list[str] = setting([], changeable=True, packages=TRACKERS)
    """trackers besides metrics.jsonl: tensorboard, wandb, trackio, mlflow, comet_ml, clearml, dvclive, swanlab"""

    def check(self, key: str) -> None:
        if not self.dir.strip():
            raise RecipeError(f"{key}.dir is empty; name a folder for the run", key=f"{key}.dir")
        refuse_tilde(self.dir, f"{key}.dir")
        if unknown := [name for name in self.report_to if name not in TRACKERS]:
            raise RecipeError(
                f"{key}.report_to has {unknown[0]}, which is not a tracker; use {', '.join(TRACKERS)}, or leave it out",
                key=f"{key}.report_to",
            )


@dataclass(frozen=True)
class TrainingRun(Run):
    max_hours: float | None = number(None, above=0, changeable=True)
    """time limit in hours: the run saves a checkpoint and stops before it has passed; the same command resumes it, with
    any other limit"""
    local_dir: str | None = setting(None, changeable=True)
    """a folder on a fast local disk: checkpoints are written there, and copied to `dir` while the run continues"""
    push_to_hub: str | None = setting(None, changeable=True)
    """hub repository (owner/name) to push the finished model to, with a card made from the run folder"""
    hub_private: bool = setting(True, changeable=True)
    """whether the repository is private if the push creates it"""

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
    """nucleus sampling: draw from the smallest set of tokens with at least this probability (report, 3.2.2: 0.9)"""
    temperature: float = number(1.0, above=0)
    """logits are divided by this before the softmax"""
    max_new_tokens: int = number(512, least=1)
    """limit in tokens of a response; longer ones are cut off"""
    batch_size: int = number(256, least=1, changeable=True)
    """responses generated at the same time; affects memory and speed, not the random numbers"""


@dataclass(frozen=True)
class PolicySampling(Sampling):
    """Sampling of a model that is in training on several ranks."""

    split: int = number(1, least=1)
    """tensor-parallel size in generation: ranks that the policy's weights are sharded over; 1: no sharding"""


def check_name(name: str, key: str) -> None:
    """Raise RecipeError for a user's name that cannot be part of a dotted key."""
    if not NAME.fullmatch(name):
        raise RecipeError(
            f"{key} has the name {show(name)}; use only letters, digits, _ and -, because names are parts of keys",
            key=key,
        )


def model_paths(value: Any, key: str) -> list[str]:
    """Return the models in `value`: a path or hub id, or a list of these. Raise RecipeError, naming `key`."""
    paths = value if isinstance(value, list) else [value]
    if not paths or not all(isinstance(path, str) and path.strip() for path in paths):
        raise RecipeError(f"{key} is {show(value)}; it must be a path or a list of paths", key=key)
    return paths


def model_inputs(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield (key, path) of the models in `value` that must be on this machine. Raise RecipeError, naming `key`."""
    for path in model_paths(value, key):
        # A few hub ids have no owner, for example gpt2.
        if "/" in path and not is_hub_id(path):
            yield key, path


def is_hub_id(path: str) -> bool:
    """Return whether `path` has the form owner/name and is not a path on this machine.

    If its first folder exists here it is a path, so that a misspelt `runs/name` is not searched for on the hub.
    """
    return HUB_ID.fullmatch(path) is not None and not Path(path).exists() and not Path(path).parent.is_dir()
