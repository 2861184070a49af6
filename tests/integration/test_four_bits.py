"""QLoRA: float32 adapters on a base in 4 bits, on the CPU if bitsandbytes is installed."""

import importlib.util
import subprocess

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from config import RecipeError, load
from config.sections import Model
from engine.errors import RunError
from engine.files.jsonl import read
from engine.models.loading import load_causal, load_scalar
from engine.models.tokenizer import load_tokenizer
from reward.recipe import Reward
from reward.train import train as train_reward
from sft.recipe import SFT
from sft.train import train as train_sft
from tests.integration import test_reward, test_sft
from tests.support.stage_runs import command, write_base, write_jsonl

installed = importlib.util.find_spec("bitsandbytes") is not None
needs_bitsandbytes = pytest.mark.skipif(not installed, reason="bitsandbytes, an extra, is not installed")
QLORA = ["lora.load_in_4bit=true", "lora.merge=false", "lora.r=4", "trainer.max_steps=12", "trainer.learning_rate=1e-2"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    """Write a base wide enough for blocks of 64 weights, conversations, comparisons and two recipes."""
    folder = tmp_path_factory.mktemp("four")
    write_base(folder / "base", hidden_size=64, intermediate_size=128)
    write_jsonl(folder / "train.jsonl", map(test_sft.conversation, range(32)))
    write_jsonl(folder / "pairs.jsonl", map(test_reward.pair, range(32)))
    (folder / "sft.yaml").write_text(test_sft.RECIPE.format(folder=folder))
    (folder / "rm.yaml").write_text(test_reward.RECIPE.format(folder=folder))
    return folder


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["lora.load_in_4bit=true"],
            "lora.load_in_4bit=true stores weights that cannot be trained, and lora.r=0 trains them all; "
            "set lora.r, or lora.load_in_4bit=false",
        ),
        (
            ["lora.load_in_4bit=true", "lora.r=8"],
            "lora.load_in_4bit=true and lora.merge=true would merge into 4-bit weights; set lora.merge=false, and "
            "merge the finished adapters into the full base with make merge",
        ),
    ],
)
def test_impossible_combinations_of_keys_are_refused(setting, overrides, expected):
    with pytest.raises(RecipeError) as error:
        load(SFT, setting / "sft.yaml", overrides)
    assert str(error.value) == expected


@pytest.mark.skipif(installed, reason="bitsandbytes is installed")
def test_without_bitsandbytes_the_error_has_the_install_command(setting, tmp_path):
    with pytest.raises(RunError) as error:
        train_sft(load(SFT, setting / "sft.yaml", [f"run.dir={tmp_path}", *QLORA]))
    text = str(error.value)
    assert text.startswith("load_in_4bit=true: ")
    assert text.endswith("; install it with .venv/bin/pip install bitsandbytes, or leave load_in_4bit out")
    assert "\n" not in text


@needs_bitsandbytes
def test_the_base_computes_with_its_dequantized_weights(setting):
    """Compared with a plain model whose linear layers hold the dequantized weights."""
    from bitsandbytes.functional import dequantize_4bit

    tokenizer = load_tokenizer(str(setting / "base"))
    four = load_causal(
        str(setting / "base"), Model(path="", attention="sdpa"), tokenizer, trained=True, in_4bit=True
    ).eval()
    plain = AutoModelForCausalLM.from_pretrained(setting / "base", dtype=torch.float32).eval()
    whole = {name: weights.clone() for name, weights in plain.named_parameters()}
    decoded = 0
    for name, module in four.named_modules():
        if type(module).__name__ == "Linear4bit":
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
            assert (
                0.01 < (weight - whole[f"{name}.weight"]).abs().mean() / whole[f"{name}.weight"].abs().mean() < 0.2
            )  # the rounding error of 16 levels
            plain.get_submodule(name).weight.data = weight
            decoded += 1
    assert decoded == 2 * 7  # all but the head
    ids = torch.randint(0, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert_close(four(ids).logits, plain(ids).logits, atol=2e-4, rtol=1e-3)


@needs_bitsandbytes
def test_adapters_train_on_4_bits_and_merge_into_the_full_base(setting, tmp_path):
    train_sft(load(SFT, setting / "sft.yaml", [f"run.dir={tmp_path}/run", *QLORA]))
    losses = [row["loss"] for row in read(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert losses[-1] < 0.8 * losses[0]
    base = AutoModelForCausalLM.from_pretrained(setting / "base", dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "model").eval()
    trained = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    assert {weights.dtype for weights in trained.values()} == {torch.float32}
    subprocess.run(
        [*command("release.merge", tmp_path / "run" / "model"), str(tmp_path / "merged")], check=True,
        capture_output=True,
    )  # fmt: skip
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-4, rtol=1e-4)


@needs_bitsandbytes
def test_a_reward_model_trains_on_4_bits(setting, tmp_path):
    train_reward(load(Reward, setting / "rm.yaml", [f"run.dir={tmp_path}/run", *QLORA]))
    rows = [row for row in read(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert rows[-1]["loss"] < rows[0]["loss"]
    tokenizer = load_tokenizer(str(tmp_path / "run" / "model"))
    load_scalar(str(tmp_path / "run" / "model"), Model(path=""), tokenizer, trained=False)


@needs_bitsandbytes
def test_changes_of_a_4_bit_base_are_refused(setting, tmp_path):
    train_sft(load(SFT, setting / "sft.yaml", [f"run.dir={tmp_path}/run", *QLORA, "trainer.max_steps=1"]))
    adapter = tmp_path / "run" / "model"
    with pytest.raises(RunError) as error:
        train_sft(load(SFT, setting / "sft.yaml", [f"run.dir={tmp_path}/other", f"model.path={adapter}", *QLORA]))
    assert str(error.value) == (
        f"{adapter} is an adapter, which cannot be merged into a base in 4 bits; merge it first: "
        f'make merge ARGS="{adapter} OUT"'
    )
    write_base(tmp_path / "base", "llama")
    with pytest.raises(RunError) as error:
        train_sft(load(SFT, setting / "sft.yaml", [f"run.dir={tmp_path}/third", f"model.path={tmp_path}/base", *QLORA]))
    assert str(error.value) == (
        f"{tmp_path}/base has no rows for the ChatML tokens, and an adapter on a base in 4 bits cannot add them; "
        "leave load_in_4bit out"
    )
