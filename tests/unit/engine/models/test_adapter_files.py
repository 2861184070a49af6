"""Adapter folders for a shared base: incomplete adapters, and adapters for other layers, are refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import RunError
from engine.models.adapter_files import read_adapter
from engine.models.multi_adapter import Role, Roles
from tests.support.small_models import small_model

FILE = "adapter_model.safetensors"


@pytest.fixture
def adapter(tmp_path):
    from peft import LoraConfig, get_peft_model

    get_peft_model(small_model(), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    return tmp_path


def test_an_adapter_with_one_of_two_lora_matrices_is_refused(adapter):
    tensors = load_file(adapter / FILE)
    del tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, adapter / FILE)
    with pytest.raises(RunError) as error:
        read_adapter(str(adapter), "model.path")
    assert str(error.value) == (
        f"model.path={adapter} has only one of the two LoRA matrices of model.layers.1.self_attn.q_proj; "
        "copy the whole folder"
    )


def test_an_adapter_for_a_layer_that_the_base_lacks_is_refused(adapter):
    found = read_adapter(str(adapter), "model.path")
    with pytest.raises(RunError, match=r"an adapter has weights for model\.layers\.1\.self_attn\.q_proj, a layer that"):
        Role(small_model(num_hidden_layers=1), Roles(), "policy", found, torch.float32, trained=True)
