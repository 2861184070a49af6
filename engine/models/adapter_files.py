"""Read and write adapter folders in peft's format as plain tensors, for several models on one base."""

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

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# The prefix that peft gives every key, and the suffixes of its keys.
KEY_PREFIX, LORA_A, LORA_B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
TOKEN_ROWS, SCORE = ".token_adapter.trainable_tokens_delta", "score.weight"
# peft options that models=shared does not support.
UNSUPPORTED_OPTIONS = ("use_dora", "rank_pattern", "alpha_pattern", "layers_pattern", "use_qalora", "target_parameters")


@dataclass(frozen=True)
class Adapter:
    """An adapter's configuration and tensors; the tensors' keys are those of the file, without peft's prefix."""

    config: dict[str, Any]
    tensors: Mapping[str, torch.Tensor]
    scalar: dict[str, Any] | None
    """score_offset and score_token_id of a reward model; None for a causal LM"""

    @property
    def is_scalar(self) -> bool:
        return self.scalar is not None

    @property
    def scale(self) -> float:
        """Return the factor of B A x: alpha / r (Hu et al. 2021, section 4.1), or alpha / √r under rsLoRA."""
        rank = self.config["r"] ** 0.5 if self.config.get("use_rslora") else self.config["r"]
        return self.config["lora_alpha"] / rank

    def low_rank(self) -> Iterator[tuple[str, str, str]]:
        """Yield (path of a linear layer, key of its lora_A, key of its lora_B)."""
        for key in self.tensors:
            if key.endswith(LORA_A):
                path = key.removesuffix(LORA_A)
                yield path, key, path + LORA_B

    def token_rows(self, base: PreTrainedModel) -> Iterator[tuple[str, str, list[int]]]:
        """Yield (path of an embedding table or output head, key of its trained rows, their token ids)."""
        for key in self.tensors:
            if key.endswith(TOKEN_ROWS):
                path = key.removesuffix(TOKEN_ROWS)
                ids = self.config["trainable_token_indices"][path.rpartition(".")[2]]
                yield path, key, ids
                if base.config.tie_word_embeddings and not self.is_scalar:
                    head = base.get_output_embeddings()
                    yield next(name for name, module in base.named_modules() if module is head), key, ids

    def scalar_config(self, plain: PretrainedConfig) -> PretrainedConfig:
        """Return the base's configuration with the reward model's keys added."""
        config = copy.deepcopy(plain)
        config.num_labels = 1
        config.update(self.scalar or {})
        return config


def read_adapter(path: str, key: str) -> Adapter:
    """Read the adapter folder `path`; `key` is the recipe key that names it, for error messages.

    Raises RunError if the folder is not an adapter's, if it is incomplete, or if models=shared does not support it.
    """
    if not is_adapter(path):
        raise RunError(
            f"{key}={path} is a whole model, but models=shared needs adapters of one base; train with "
            "lora.r=64 lora.merge=false, or set models=full"
        )
    config = json.loads((Path(path) / CONFIG_FILE).read_text(encoding="utf-8"))
    tensors = {k.removeprefix(KEY_PREFIX): v for k, v in load_file(Path(path) / WEIGHTS_FILE).items()}
    odd = [name for name in UNSUPPORTED_OPTIONS if config.get(name)]
    odd += sorted(k for k in tensors if not k.endswith((LORA_A, LORA_B, TOKEN_ROWS)) and k != SCORE)
    if config["peft_type"] != "LORA" or odd:
        raise RunError(
            f"{key}={path} has {', '.join(odd) or config['peft_type']}, which models=shared does not "
            "support; set models=full"
        )
    halves = {k.removesuffix(LORA_A) for k in tensors if k.endswith(LORA_A)}
    halves ^= {k.removesuffix(LORA_B) for k in tensors if k.endswith(LORA_B)}
    if halves:
        raise RunError(f"{key}={path} has only one of the two LoRA matrices of {min(halves)}; copy the whole folder")
    beside = Path(path) / SCALAR_HEAD
    scalar = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else None
    if (scalar is not None) != (SCORE in tensors):
        raise RunError(f"{key}={path} lacks {SCALAR_HEAD if scalar is None else SCORE}; copy the whole folder")
    return Adapter(config, tensors, scalar and {name: scalar[name] for name in SCALAR_KEYS})


def write_adapter(
    adapter: Adapter,
    tensors: Mapping[str, torch.Tensor],
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """Write an adapter folder that `read_adapter`, `load_causal` or `load_scalar`, and peft can read.

    The configuration is that of `adapter`; `tensors` have the same keys. `base` gives the generation config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    durable.write_json(folder / CONFIG_FILE, adapter.config)
    save_file(
        {KEY_PREFIX + k: v.contiguous().cpu() for k, v in tensors.items()}, folder / WEIGHTS_FILE, {"format": "pt"}
    )
    if adapter.is_scalar:
        durable.write_json(folder / SCALAR_HEAD, adapter.scalar)
    else:
        base.generation_config.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, scores=adapter.is_scalar)
