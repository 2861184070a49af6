"""Missing, renamed, damaged or misshapen weights are an error of one line and are never initialised at random."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from config.sections import Model
from engine.errors import RunError
from engine.models.loading import load_causal, load_scalar, new_scalar
from engine.models.saving import save_model
from engine.models.tokenizer import load_tokenizer
from tests.support.small_models import small_model
from tests.support.tokenizers import qwen

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 5000\n"


@pytest.fixture
def folder(tmp_path):
    model = small_model("qwen2", vocab_size=len(qwen()), tie_word_embeddings=False)
    model.save_pretrained(tmp_path / "base")
    qwen().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def rewrite(folder, change=lambda weights: weights, **config):
    """Change a folder's weights by a function of them, and keys of its configuration."""
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(values))


def load(folder):
    path = str(folder)
    return load_causal(path, Model(path=path), load_tokenizer(path), trained=True)


def refusal(folder, loader=load):
    with pytest.raises(RunError) as error:
        loader(folder)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("prefix", "writer"),
    [
        ("_orig_mod.", ", as torch.compile writes it"),
        ("module.", ", as DistributedDataParallel or DeepSpeed writes it"),
        ("base_model.model.", ", as peft writes it"),
        ("policy.", ""),
    ],
)
def test_weights_with_a_foreign_prefix_are_refused_with_its_origin(folder, prefix, writer):
    rewrite(folder, lambda weights: {prefix + key: value for key, value in weights.items()})
    assert refusal(folder) == (
        f"{folder} lacks lm_head.weight, model.embed_tokens.weight, model.layers.0.input_layernorm.weight and 24 more "
        f"weights, which would be initialised at random; its keys begin with {prefix!r}{writer}: save it again "
        "without that prefix"
    )
    # The advice works.
    rewrite(folder, lambda weights: {key.removeprefix(prefix): value for key, value in weights.items()})
    load(folder)


def test_a_missing_layer_and_a_missing_head_are_refused(folder):
    rewrite(folder, lambda weights: {key: value for key, value in weights.items() if key != "lm_head.weight"})
    advice = "which would be initialised at random; copy the whole folder, with all weight files"
    assert refusal(folder) == f"{folder} lacks lm_head.weight, {advice}"
    rewrite(folder, tie_word_embeddings=True)
    load(folder)  # a tied head is not missing
    rewrite(folder, lambda weights: {key: value for key, value in weights.items() if ".1.mlp.up_proj." not in key})
    assert refusal(folder) == f"{folder} lacks model.layers.1.mlp.up_proj.weight, {advice}"


def test_weights_of_other_shapes_are_refused(folder):
    rewrite(folder, intermediate_size=32)
    assert refusal(folder) == (
        f"{folder}: model.layers.0.mlp.down_proj.weight has the shape [32, 64], but config.json gives "
        "[32, 32]; check that config.json belongs to these weights"
    )
    rewrite(folder, intermediate_size=64)
    load(folder)


def test_an_unused_weight_is_refused_within_a_layer_and_warned_of_elsewhere(folder, capsys):
    rewrite(folder, lambda weights: {**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    load(folder)  # a buffer that older versions of transformers stored
    assert "warning" not in capsys.readouterr().err
    rewrite(folder, lambda weights: {**weights, "mtp.fc.weight": torch.ones(4)})
    load(folder)
    note = f"warning: {folder} has mtp.fc.weight, not part of Qwen2ForCausalLM; ignored\n"
    assert note in capsys.readouterr().err
    rewrite(folder, lambda weights: {**weights, "model.layers.0.self_attn.q_norm.weight": torch.ones(8)})
    assert refusal(folder).startswith(
        f"{folder} has model.layers.0.self_attn.q_norm.weight, which Qwen2ForCausalLM does not use: the model would "
    )


def test_a_git_lfs_pointer_and_a_truncated_file_are_reported_in_one_line(folder):
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:5000])
    assert refusal(folder) == (
        f"{file} is damaged or incomplete (Error while deserializing header: incomplete metadata, file not fully "
        "covered); download it again"
    )
    file.write_text(POINTER)
    message = f"{file} is a Git LFS pointer, not the weights; fetch them: git lfs pull"
    assert refusal(folder) == message
    path, section = str(folder), Model(path=str(folder))
    stored = lambda _: load_causal(path, section, load_tokenizer(path), trained=True, as_stored=True)  # noqa: E731
    assert refusal(folder, stored) == message
    file.rename(folder / "pytorch_model.bin")
    assert refusal(folder) == message.replace(file.name, "pytorch_model.bin")


def test_a_reward_model_with_missing_weights_besides_its_head_is_refused(folder, tmp_path):
    path = str(folder)
    tokenizer = load_tokenizer(path)
    save_model(new_scalar(path, Model(path=path), tokenizer, seed=1), tokenizer, tmp_path / "reward")
    rewrite(
        tmp_path / "reward", lambda weights: {k: v for k, v in weights.items() if not re.search("score|norm.weight", k)}
    )
    found = refusal(tmp_path / "reward", lambda at: load_scalar(str(at), Model(path=""), tokenizer, trained=False))
    assert found.startswith(f"{tmp_path / 'reward'} lacks model.layers.0.input_layernorm.weight, ")
