"""LoRA with bfloat16: the base's linear weights are stored in bfloat16, results are equal, merging is in float32."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from config.sections import Lora
from engine.models import adapters
from engine.models.adapters import lora_config, store_linear_weights
from tests.support.processes import run_stage
from tests.support.small_models import small_model
from tests.support.stage_runs import same, untimed, weights
from tests.support.tokenizers import qwen
from tests.support.uneven_setting import make_setting, run_in_this_process

LORA = ["lora.r=4", "trainer.learning_rate=1e-2", "model.dtype=bfloat16"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("bfloat16"))


def test_loss_and_gradients_equal_those_of_a_float32_base_bit_for_bit():
    found, drawn = [], torch.Generator()
    for in_bfloat16 in (False, True):
        model = small_model(vocab_size=len(qwen()), tie_word_embeddings=False)
        model.load_state_dict({name: weight.bfloat16().float() for name, weight in model.state_dict().items()})
        if in_bfloat16:
            store_linear_weights(model, torch.bfloat16)
        model = get_peft_model(model, lora_config(Lora(r=4), model, qwen()))
        drawn.manual_seed(1)
        adapters = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        for name, weight in adapters.items():
            assert weight.dtype == torch.float32
            if "lora_" in name:
                torch.nn.init.normal_(weight, generator=drawn)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(torch.arange(40)[None], labels=torch.arange(40)[None]).loss
        loss.backward()
        found.append((model, loss, {name: weight.grad for name, weight in adapters.items()}))
    (_, loss, gradients), (compact, again, compact_gradients) = found
    assert torch.equal(loss, again)
    assert all(torch.equal(gradients[name], compact_gradients[name]) for name in gradients)
    stored = [name for name, weight in compact.named_parameters() if weight.dtype == torch.bfloat16]
    assert len(stored) == 2 * (7 + 3)  # linear layers except the head, three of them with bias; no norm or embedding
    assert not any("lm_head" in name or "lora" in name for name in stored)


def test_layers_that_bfloat16_would_round_stay_in_float32():
    model = small_model()
    store_linear_weights(model, torch.bfloat16)
    store_linear_weights(model, torch.float32)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_a_run_equals_one_on_a_float32_base_bit_for_bit(setting, monkeypatch, stage):
    stored = []

    def recording(base, dtype):
        store_linear_weights(base, dtype)
        stored.append({weight.dtype for weight in base.parameters()})

    monkeypatch.setattr(adapters, "store_linear_weights", recording)
    compact = run_in_this_process(setting, stage, *LORA)
    assert stored == [{torch.float32, torch.bfloat16}]
    monkeypatch.setattr(adapters, "store_linear_weights", lambda base, dtype: None)
    whole = run_in_this_process(setting, stage, *LORA, "run.keep_checkpoints=1")
    assert untimed(compact) == untimed(whole)
    assert same(weights(compact), weights(whole))


def test_the_merged_model_is_base_plus_adapter_in_float32(setting):
    adapter_run = run_in_this_process(setting, "sft", *LORA, "lora.merge=false")
    merged = load_file(run_in_this_process(setting, "sft", *LORA) / "model" / "model.safetensors")
    base = AutoModelForCausalLM.from_pretrained(setting / "base", dtype=torch.float32)
    expected = PeftModel.from_pretrained(base, adapter_run / "model").merge_and_unload().state_dict()
    for name, weight in merged.items():
        assert weight.dtype == torch.float32
        assert_close(weight, expected[name], atol=1e-6, rtol=0)


def test_a_run_under_fsdp2_has_nearly_the_same_losses(setting, tmp_path):
    """FSDP2 has no autocast: norms and sums are in bfloat16 too, so the losses agree to 0.02 only."""
    run_stage("sft", setting / "sft.yaml", *LORA, f"run.dir={tmp_path}", hardware="fsdp2")
    for row, expected in zip(untimed(tmp_path), untimed(run_in_this_process(setting, "sft", *LORA)), strict=True):
        assert row.get("loss") == pytest.approx(expected.get("loss"), abs=0.02)
