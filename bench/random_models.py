"""Write model folders with random weights at the speed of the disk, without instantiating the models.

Weights are bfloat16, like published ones. The folder of a reward model links to the files of its base and adds a file
with the scalar head, so it takes almost no disk space.
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

# Size of a weight file; one file at a time is in memory.
FILE_BYTES = 2**31
# Numbers drawn; the weights repeat them. The count is chosen so that no two rows of a weight are equal.
NUM_DRAWN = 2**22 + 17


def write_models(config: PretrainedConfig, rank: int, home: Path) -> None:
    """Write the folders base, reward, sft-adapter and reward-adapter into `home`; `rank` is that of the adapters."""
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
    """Write a causal language model in files of about FILE_BYTES, with their index."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    block = torch.randn(NUM_DRAWN).mul_(0.02).bfloat16()
    where: dict[str, str] = {}
    for number, names in enumerate(split_into_files(dict(model.named_parameters()))):
        file = f"model-{number:05}.safetensors"
        save_file(
            {name: make_weight(name, size, block) for name, size in names.items()}, folder / file, {"format": "pt"}
        )
        where |= dict.fromkeys(names, file)
    model.config.save_pretrained(folder)
    write_index(folder, where)


def split_into_files(weights: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Size]]:
    """Yield for each file the names and shapes of its weights."""
    names: dict[str, torch.Size] = {}
    for name, weight in weights.items():
        if names and sum(map(torch.Size.numel, names.values())) + weight.numel() > FILE_BYTES / 2:
            yield names
            names = {}
        names[name] = weight.shape
    yield names


def make_weight(name: str, size: torch.Size, block: torch.Tensor) -> torch.Tensor:
    """Return a weight: 1 for norms, 0 for biases, otherwise the numbers of `block`, repeated."""
    if len(size) == 1:
        return torch.full(size, float(name.endswith("norm.weight")), dtype=block.dtype)
    return block.repeat(-(-size.numel() // len(block)))[: size.numel()].view(size)


def write_index(folder: Path, where: dict[str, str]) -> None:
    index = {"metadata": {}, "weight_map": where}
    (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index), encoding="utf-8")


def write_reward(config: PretrainedConfig, end: int, base: Path, folder: Path) -> None:
    """Write a reward model: links to the files of the base, and the scalar head in a file of its own."""
    where = json.loads((base / SAFE_WEIGHTS_INDEX_NAME).read_text(encoding="utf-8"))["weight_map"]
    for file in set(where.values()):
        (folder / file).symlink_to(base / file)
    score = torch.randn(1, config.hidden_size).mul_(0.02).bfloat16()
    save_file({"score.weight": score}, folder / "score.safetensors", {"format": "pt"})
    scalar_config(config, end).save_pretrained(folder)
    write_index(
        folder, {n: f for n, f in where.items() if n != "lm_head.weight"} | {"score.weight": "score.safetensors"}
    )


def write_adapter(config: PretrainedConfig, rank: int, end: int | None, base: Path, folder: Path) -> None:
    """Write an adapter as the stages save it; with `end`, the id of the end token, that of a reward model."""
    tokenizer = load_tokenizer(str(base))
    kind = AutoModelForCausalLM if end is None else AutoModelForSequenceClassification
    with torch.device("meta"):
        plain = kind.from_config(config if end is None else scalar_config(config, end))
        adapters = lora_config(Lora(r=rank), plain, tokenizer)
        assert adapters is not None  # r is not 0
        model = get_peft_model(plain, adapters)
    described = model.peft_config["default"]
    described.base_model_name_or_path = str(base)
    described.save_pretrained(str(folder))
    sizes = {
        name: weight.shape for name, weight in get_peft_model_state_dict(model, save_embedding_layers=False).items()
    }
    tensors = {name: torch.randn(size).mul_(0.02) for name, size in sizes.items()}
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    if end is not None:
        (folder / SCALAR_HEAD).write_text(json.dumps(scalar_keys(end)), encoding="utf-8")
    tokenizer.save_pretrained(folder)


def scalar_config(config: PretrainedConfig, end: int) -> PretrainedConfig:
    scalar = copy.deepcopy(config)
    scalar.num_labels = 1
    scalar.update(scalar_keys(end))
    return scalar


def scalar_keys(end: int) -> dict[str, Any]:
    return {"score_offset": 0.0, "score_token_id": end}
