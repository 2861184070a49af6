"""Saved models in plain transformers and peft: equal scores with any padding, and merging of adapters."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoTokenizer, StableLmConfig, StableLmForCausalLM

from chatml import control
from config.sections import Lora, Model
from engine.forward.responses import sequence_scores
from engine.models.adapters import add_adapters
from engine.models.loading import load_causal, load_scalar, new_scalar
from engine.models.saving import merge_adapters, save_model
from engine.models.tokenizer import load_tokenizer, prepare_tokenizer
from release.merge import merge
from tests.support.real_tokenizers import real_tokenizer
from tests.support.small_models import SIZES, small_model
from tests.support.tokenizers import llama, qwen, tiny_world

TEXTS = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>",
    "<|im_start|>user\nAdd three and four.<|im_end|>\n<|im_start|>assistant\nIt is seven.<|im_end|>",
    "<|im_start|>assistant\nYes<|im_end|>",
]


def padded_with_end(make):
    """Return a small tokenizer whose padding token is <|im_end|>, as in SmolLM2."""
    tokenizer = copy.deepcopy(make())
    prepare_tokenizer(tokenizer)
    tokenizer.pad_token = tokenizer.eos_token = "<|im_end|>"
    return tokenizer


@pytest.fixture(params=["qwen, pad is end", "llama, pad is end", "qwen", "tiny world", "SmolLM2"])
def saved(request, tmp_path):
    """Return the folder of a saved reward model with a nonzero score offset."""
    tokenizer = {
        "qwen, pad is end": lambda: padded_with_end(qwen),
        "llama, pad is end": lambda: padded_with_end(llama),
        "qwen": qwen,
        "tiny world": tiny_world,
        "SmolLM2": lambda: real_tokenizer("smollm2"),
    }[request.param]()
    pad_before = tokenizer.pad_token
    base = str(tmp_path / "base")
    small_model("qwen2", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id).save_pretrained(base)
    tokenizer.save_pretrained(base)
    tokenizer = load_tokenizer(base)
    model = new_scalar(base, Model(path=base), tokenizer, seed=1)
    model.config.score_offset = 0.75
    save_model(model, tokenizer, tmp_path / "reward")
    assert tokenizer.pad_token == (pad_before or "<|endoftext|>"), "saving must not change the run's tokenizer"
    return tmp_path / "reward"


@pytest.fixture
def adapted(tmp_path):
    """Return a new adapter on a base of a family that does not support packed attention, and its tokenizer."""
    config = StableLmConfig(**{**SIZES, "vocab_size": len(qwen()), "pad_token_id": 0})
    torch.manual_seed(0)
    StableLmForCausalLM(config).save_pretrained(tmp_path / "base")
    qwen().save_pretrained(tmp_path / "base")
    path = str(tmp_path / "base")
    tokenizer = load_tokenizer(path)
    base = load_causal(path, Model(path=path, attention="sdpa"), tokenizer, trained=True)
    model = add_adapters(base, Lora(r=2), tokenizer, 1, torch.float32)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model, tokenizer


def test_adapters_of_a_family_without_packed_attention_can_be_merged(adapted, tmp_path):
    """By `make merge` after the run, and at the end of a sharded run, which loads the base again."""
    model, tokenizer = adapted
    save_model(model, tokenizer, tmp_path / "adapter")
    whole = {name: weight.clone() for name, weight in model.state_dict().items()}
    sharded = merge_adapters(model, tokenizer, whole, tmp_path).state_dict()
    merge([str(tmp_path / "adapter"), str(tmp_path / "merged")])
    merged = StableLmForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    expected = model.merge_and_unload().state_dict()
    for name, weight in expected.items():
        assert_close(merged[name], weight)
        assert_close(sharded[name], weight)
    base = StableLmForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    assert not torch.equal(base["model.layers.0.mlp.up_proj.weight"], expected["model.layers.0.mlp.up_proj.weight"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_plain_transformers_gives_equal_scores_on_single_and_padded_rows(saved, side):
    tokenizer = AutoTokenizer.from_pretrained(saved, padding_side=side)
    plain = AutoModelForSequenceClassification.from_pretrained(saved).eval()
    assert plain.config.pad_token_id == tokenizer.pad_token_id != control(tokenizer).im_end
    ids = tokenizer(TEXTS, add_special_tokens=False).input_ids
    ours = load_scalar(str(saved), Model(path=str(saved)), load_tokenizer(str(saved)), trained=False)
    scores = sequence_scores(ours, ids, 10**6)
    batch = tokenizer(TEXTS, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        batched = plain(**batch).logits[:, 0]
        single = torch.cat([plain(torch.tensor([row])).logits[0] for row in ids])
    for found in (batched, single):
        assert_close(found - plain.config.score_offset, scores, atol=1e-5, rtol=1e-5)
    assert scores.argsort().tolist() == batched.argsort().tolist()


def test_a_reward_adapter_gives_equal_scores_in_plain_peft_with_its_pad_token(tmp_path):
    base, folder = str(tmp_path / "base"), str(tmp_path / "reward")
    tokenizer = padded_with_end(qwen)
    small_model("qwen2", vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id).save_pretrained(base)
    tokenizer.save_pretrained(base)
    tokenizer = load_tokenizer(base)
    scalar = new_scalar(base, Model(path=base), tokenizer, seed=1)
    save_model(get_peft_model(scalar, LoraConfig(r=2, task_type="SEQ_CLS")), tokenizer, tmp_path / "reward")
    saved = AutoTokenizer.from_pretrained(folder)
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    plain.config.pad_token_id = saved.pad_token_id
    plain = PeftModel.from_pretrained(plain, folder).eval()
    ids = saved(TEXTS, add_special_tokens=False).input_ids
    with torch.no_grad():
        single = torch.cat([plain(torch.tensor([row])).logits[0] for row in ids])
    ours = load_scalar(folder, Model(path=folder), load_tokenizer(folder), trained=False)
    assert_close(single, sequence_scores(ours, ids, 10**6), atol=1e-5, rtol=1e-5)


def test_the_template_of_a_reward_model_ends_with_the_end_token(saved):
    tokenizer, ours = AutoTokenizer.from_pretrained(saved), load_tokenizer(str(saved))
    talk = [{"role": role, "content": "Hi"} for role in ("user", "assistant") * 2]
    whole, end = ours.apply_chat_template(talk, tokenize=False), "<|im_end|>"
    assert whole.endswith(end + "\n")
    assert tokenizer.apply_chat_template(talk, tokenize=False) == whole.removesuffix("\n")
    asked = [ours, tokenizer]
    first, second = (at.apply_chat_template(talk[:3], tokenize=False, add_generation_prompt=True) for at in asked)
    assert first == second
