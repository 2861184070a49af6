"""Folders of models with random weights, written as fast as a disk takes them: nothing but the numbers is made.

Weights are bfloat16, as published ones are. A reward model's folder is its base's files and a score beside them, so
that it takes no room of its own.
"""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from bench.ppo import bytes_tokenizer
from chatml import control
from config.sections import Lora
from engine.models.adapters import lora_config
from engine.models.loading import SCALAR_HEAD
from engine.models.tokenizer import load_tokenizer

# Bytes of a file, of which one is made in memory at a time.
FILE = 2**31
# Numbers that are drawn; weights repeat them, no two rows alike.
DRAWN = 2**22 + 17


def write_models(config: PretrainedConfig, rank: int, home: Path) -> None:
    """`home`/base, `home`/reward, and `home`/sft-adapter and `home`/reward-adapter of this rank on the base."""
    base, reward = home.resolve() / "base", home / "reward"
    config.dtype = torch.bfloat16
    for folder in (base, reward):
        bytes_tokenizer().save_pretrained(folder)
    end = control(load_tokenizer(str(base))).im_end
    write_base(config, base)
    write_reward(config, end, base, reward)
    for scalar, name in ((False, "sft-adapter"), (True, "reward-adapter")):
        write_adapter(config, rank, end if scalar else None, base, home / name)


def write_base(config: PretrainedConfig, folder: Path) -> None:
    """A causal LM in files of some gigabytes, and their index."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    block, where = torch.randn(DRAWN).mul_(0.02).bfloat16(), {}
    for number, names in enumerate(in_files(dict(model.named_parameters()))):
        file = f"model-{number:05}.safetensors"
        save_file({name: filled(name, size, block) for name, size in names.items()}, folder / file, {"format": "pt"})
        where |= dict.fromkeys(names, file)
    model.config.save_pretrained(folder)
    write_index(folder, where)


def in_files(weights: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Size]]:
    """Names and sizes of the weights of each file."""
    names: dict[str, torch.Size] = {}
    for name, weight in weights.items():
        if names and sum(map(torch.Size.numel, names.values())) + weight.numel() > FILE / 2:
            yield names
            names = {}
        names[name] = weight.shape
    yield names


def filled(name: str, size: torch.Size, block: torch.Tensor) -> torch.Tensor:
    """Norms are 1, biases 0, all else numbers of the block."""
    if len(size) == 1:
        return torch.full(size, float(name.endswith("norm.weight")), dtype=block.dtype)
    return block.repeat(-(-size.numel() // len(block)))[: size.numel()].view(size)


def write_index(folder: Path, where: dict[str, str]) -> None:
    index = {"metadata": {}, "weight_map": where}
    (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")


def write_reward(config: PretrainedConfig, end: int, base: Path, folder: Path) -> None:
    """The base's body, by links to its files, and a score in a file of its own."""
    where = json.loads((base / SAFE_WEIGHTS_INDEX_NAME).read_text(encoding="utf-8"))["weight_map"]
    for file in set(where.values()):
        (folder / file).symlink_to(base / file)
    score = torch.randn(1, config.hidden_size).mul_(0.02).bfloat16()
    save_file({"score.weight": score}, folder / "score.safetensors", {"format": "pt"})
    with_score(config, end).save_pretrained(folder)
    write_index(
        folder, {n: f for n, f in where.items() if n != "lm_head.weight"} | {"score.weight": "score.safetensors"}
    )


def write_adapter(config: PretrainedConfig, rank: int, end: int | None, base: Path, folder: Path) -> None:
    """An adapter as the stages leave it; with an `end` token that of a reward model, whose score is read there."""
    tokenizer = load_tokenizer(str(base))
    kind = AutoModelForCausalLM if end is None else AutoModelForSequenceClassification
    with torch.device("meta"):
        plain = kind.from_config(config if end is None else with_score(config, end))
        model = get_peft_model(plain, lora_config(Lora(r=rank), plain, tokenizer))
    described = model.peft_config["default"]
    described.base_model_name_or_path = str(base)
    described.save_pretrained(folder)
    sizes = {
        name: weight.shape for name, weight in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    tensors = {name: torch.randn(size).mul_(0.02) for name, size in sizes.items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    if end is not None:
        (folder / SCALAR_HEAD).write_text(json.dumps(scalar_keys(end)), encoding="utf-8")
    tokenizer.save_pretrained(folder)


def with_score(config: PretrainedConfig, end: int) -> PretrainedConfig:
    scalar = copy.deepcopy(config)
    scalar.num_labels = 1
    scalar.update(scalar_keys(end))
    return scalar


def scalar_keys(end: int) -> dict[str, Any]:
    return {"score_offset": 0.0, "score_token_id": end}
