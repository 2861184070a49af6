"""Adapter folders in peft's format, read and written as plain tensors, for several models on one base."""

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from engine.errors import RunError
from engine.files import durable
from engine.models.adapters import is_adapter
from engine.models.loading import SCALAR_HEAD, SCALAR_KEYS
from engine.models.saved_tokenizer import save_tokenizer

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
DOWN, UP, ROWS, SCORE = ".lora_A.weight", ".lora_B.weight", ".token_adapter.trainable_tokens_delta", "score.weight"
# Options of peft that a shared base cannot have.
REFUSED = ("use_dora", "rank_pattern", "alpha_pattern", "layers_pattern", "use_qalora", "target_parameters")


@dataclass(frozen=True)
class Adapter:
    """An adapter's configuration and tensors, by their names in the file without peft's prefix."""

    config: dict[str, Any]
    tensors: Mapping[str, torch.Tensor]
    scalar: dict[str, Any] | None
    """score_offset and score_token_id, if it is the adapter of a reward model"""

    @property
    def is_scalar(self) -> bool:
        return self.scalar is not None

    @property
    def scale(self) -> float:
        rank = self.config["r"] ** 0.5 if self.config.get("use_rslora") else self.config["r"]
        return self.config["lora_alpha"] / rank

    def low_rank(self) -> Iterator[tuple[str, str, str]]:
        """Yield (path of a linear layer, key of lora_A, key of lora_B)."""
        for key in self.tensors:
            if key.endswith(DOWN):
                path = key.removesuffix(DOWN)
                yield path, key, path + UP

    def token_rows(self, base: PreTrainedModel) -> Iterator[tuple[str, str, list[int]]]:
        """Yield (path of an embedding table or head, key of the rows that replace some of its own, their token ids)."""
        for key in self.tensors:
            if key.endswith(ROWS):
                path = key.removesuffix(ROWS)
                ids = self.config["trainable_token_indices"][path.rpartition(".")[2]]
                yield path, key, ids
                if base.config.tie_word_embeddings and not self.is_scalar:
                    head = base.get_output_embeddings()
                    yield next(name for name, module in base.named_modules() if module is head), key, ids

    def scalar_config(self, plain: PretrainedConfig) -> PretrainedConfig:
        """Return the base's configuration with the reward model's keys added."""
        config = copy.deepcopy(plain)
        config.num_labels = 1
        config.update(self.scalar)
        return config


def read_adapter(path: str, key: str) -> Adapter:
    """Read the adapter folder that the recipe's `key` names; RunError if it is none, or one a base cannot share."""
    if not is_adapter(path):
        raise RunError(
            f"{key}={path} is a whole model, but models=shared needs adapters of one base; train with "
            "lora.r=64 lora.merge=false, or set models=full"
        )
    config = json.loads((Path(path) / CONFIG).read_text(encoding="utf-8"))
    tensors = {k.removeprefix(PREFIX): v for k, v in load_file(Path(path) / WEIGHTS).items()}
    odd = [name for name in REFUSED if config.get(name)]
    odd += sorted(k for k in tensors if not k.endswith((DOWN, UP, ROWS)) and k != SCORE)
    if config["peft_type"] != "LORA" or odd:
        raise RunError(f"{key}={path} has {', '.join(odd) or config['peft_type']}, which models=shared cannot hold; "
                       "set models=full")  # fmt: skip
    halves = {k.removesuffix(DOWN) for k in tensors if k.endswith(DOWN)}
    halves ^= {k.removesuffix(UP) for k in tensors if k.endswith(UP)}
    if halves:
        raise RunError(f"{key}={path} has one of two LoRA matrices of {min(halves)}; copy the whole folder")
    beside = Path(path) / SCALAR_HEAD
    scalar = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
    if (scalar is not None) != (SCORE in tensors):
        raise RunError(f"{key}={path} lacks {SCALAR_HEAD if scalar is None else SCORE}; copy the whole folder")
    return Adapter(config, tensors, scalar and {name: scalar[name] for name in SCALAR_KEYS})


def write_adapter(
    adapter: Adapter, tensors: Mapping[str, torch.Tensor], base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:  # fmt: skip
    """Write `adapter` with other tensors as a folder that `read_adapter`, peft and our own loading can read."""
    folder.mkdir(parents=True, exist_ok=True)
    durable.write_json(folder / CONFIG, adapter.config)
    save_file({PREFIX + k: v.contiguous().cpu() for k, v in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    if adapter.is_scalar:
        durable.write_json(folder / SCALAR_HEAD, adapter.scalar)
    else:
        base.generation_config.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, scores=adapter.is_scalar)
