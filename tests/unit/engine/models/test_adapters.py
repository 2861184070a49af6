"""Saved adapters in other libraries: equal logits in plain peft, and no embedding rows with train_tokens=false."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from chatml import control, encode
from config.sections import Lora, Model
from engine.errors import RunError
from engine.forward.attention import use_attention
from engine.forward.packed import pack
from engine.models.adapters import add_adapters
from engine.models.loading import load_causal
from engine.models.saving import save_model
from engine.models.system_prompt import default_system_prompt, keep_system_prompt
from engine.models.tokenizer import load_tokenizer
from release.merge import merge
from tests.support.small_models import small_model
from tests.support.tokenizers import llama, qwen

TALK = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Good day."}]
NOTE = (
    "lora.merge=false: the adapter will contain embedding rows of 4 tokens (trainable_tokens_delta), which some "
    "servers (vLLM) refuse; lora.train_tokens=false leaves those rows as the base has them\n"
)


def write_base(folder, tokenizer, **changes):
    model = small_model(vocab_size=len(tokenizer), **changes)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def train_adapter(base, lora):
    """Train an adapter for two steps on one conversation; return the model, the tokenizer and the token ids."""
    tokenizer = load_tokenizer(base)
    model = load_causal(base, Model(path=base), tokenizer, trained=True)
    model = add_adapters(model, lora, tokenizer, 1, torch.float32)
    encoded = encode(TALK, tokenizer)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        model(**pack([encoded.input_ids]), labels=torch.tensor([encoded.labels])).loss.backward()
        optimizer.step()
    return model, tokenizer, torch.tensor([encoded.input_ids])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tokens", [True, False])
def test_plain_peft_computes_the_same_logits(tied, tokens, tmp_path, capsys):
    base = write_base(tmp_path / "base", qwen(), tie_word_embeddings=tied)
    model, tokenizer, ids = train_adapter(base, Lora(r=4, merge=False, train_tokens=tokens))
    assert (NOTE in capsys.readouterr().out) == tokens
    with torch.no_grad(), use_attention(model, "sdpa"):
        expected = model.eval()(input_ids=ids, use_cache=False).logits
    save_model(model, tokenizer, tmp_path / "adapter")
    rows = [name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors") if "lora" not in name]
    assert bool(rows) == tokens
    assert bool(json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["trainable_token_indices"]) == (
        tokens
    )
    plain = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        before = plain(ids).logits
        theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()(ids).logits
    assert_close(theirs, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, expected, atol=1e-2)


def test_adapters_use_the_recipes_dropout_only_in_training(tmp_path):
    base = write_base(tmp_path / "base", qwen())
    model, _, ids = train_adapter(base, Lora(r=4, lora_dropout=0.5))
    packed = pack(ids.tolist())
    with torch.no_grad():
        first, second, third, fourth = (model.train(on)(**packed).logits for on in (True, True, False, False))
    assert not torch.allclose(first, second)
    assert torch.equal(third, fourth)


def test_an_adapter_with_the_wrong_base_is_refused_until_config_names_its_own(tmp_path):
    base, other = write_base(tmp_path / "base", qwen()), write_base(tmp_path / "other", qwen(), hidden_size=16)
    model, tokenizer, _ = train_adapter(base, Lora(r=4, merge=False))
    folder = tmp_path / "adapter"
    save_model(model, tokenizer, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": other}))
    with pytest.raises(RunError) as error:
        load_causal(str(folder), Model(path=""), tokenizer, trained=False)
    assert str(error.value) == (
        f"the adapter in {folder} was trained on a base with other shapes than {other}; name that base "
        "in its adapter_config.json"
    )
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
    load_causal(str(folder), Model(path=""), tokenizer, trained=False)


def test_an_adapter_folder_has_the_end_tokens(tmp_path):
    """peft itself reads only the base's generation config, which lacks <|im_end|>."""
    base = write_base(tmp_path / "base", qwen())
    model, tokenizer, _ = train_adapter(base, Lora(r=4, merge=False))
    save_model(model, tokenizer, tmp_path / "adapter")
    ids = control(tokenizer)
    assert AutoTokenizer.from_pretrained(tmp_path / "adapter").eos_token_id == ids.im_end
    assert GenerationConfig.from_pretrained(tmp_path / "adapter").eos_token_id == [ids.im_end, ids.endoftext]


def test_embedding_rows_of_new_tokens_must_be_trained(tmp_path):
    base = write_base(tmp_path / "base", llama(chatml=False), num_key_value_heads=4)
    with pytest.raises(RunError) as error:
        train_adapter(base, Lora(r=4, train_tokens=False))
    assert str(error.value) == (
        "lora.train_tokens=false leaves the rows of <|im_start|> and <|im_end|> as the base has them, but the base "
        "was never trained on these tokens; set lora.train_tokens=true"
    )
    train_adapter(base, Lora(r=4, train_tokens=True))


def test_merging_keeps_a_system_prompt_in_the_template(tmp_path, capsys):
    base = write_base(tmp_path / "base", qwen())
    model, tokenizer, _ = train_adapter(base, Lora(r=4, merge=False))
    keep_system_prompt(tokenizer, "Be kind.")
    save_model(model, tokenizer, tmp_path / "adapter")
    merge([str(tmp_path / "adapter"), str(tmp_path / "merged")])
    assert default_system_prompt(AutoTokenizer.from_pretrained(tmp_path / "merged")) == "Be kind."
