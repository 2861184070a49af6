"""Loading and saving: bases without ChatML tokens, adapters, reward models, missing heads and offsets."""

import json

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForSequenceClassification

from chatml import control, encode
from config.sections import Lora, Model
from engine.errors import RunError
from engine.forward.attention import use_attention
from engine.forward.packed import pack
from engine.models.adapters import is_adapter, lora_config
from engine.models.loading import load_causal, load_scalar, new_scalar
from engine.models.saving import save_model
from engine.models.tokenizer import load_tokenizer
from tests.support.small_models import small_config, small_model
from tests.support.tokenizers import llama, qwen

CALL = {"function": {"name": "add", "arguments": {}}}
CONVERSATION = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]


@pytest.fixture(params=["llama tied", "llama untied", "qwen2 tied", "qwen3 untied"])
def base(request, tmp_path):
    """Return a folder with a small base model; Llama's has no ChatML tokens."""
    family, tying = request.param.split()
    tokenizer = llama(chatml=False) if family == "llama" else qwen()
    model = small_model(family, vocab_size=len(tokenizer), tie_word_embeddings=tying == "tied")
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def step(model, tokenizer):
    """Take one finetuning step on one conversation with a packed forward pass."""
    encoded = encode(CONVERSATION, tokenizer)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model(**pack([encoded.input_ids]), labels=torch.tensor([encoded.labels])).loss.backward()
    optimizer.step()


def logits(model, tokenizer):
    with torch.no_grad(), use_attention(model, "sdpa"):
        return model.eval()(torch.tensor([encode(CONVERSATION, tokenizer).input_ids]), use_cache=False).logits


def load(base):
    tokenizer = load_tokenizer(base)
    model = load_causal(base, Model(path=base), tokenizer, trained=True)
    return tokenizer, model


def test_a_fully_finetuned_model_loads_in_plain_transformers(base, tmp_path):
    tokenizer, model = load(base)
    before = logits(model, tokenizer)
    step(model, tokenizer)
    save_model(model, tokenizer, tmp_path / "out")

    plain, its_tokenizer = (kind.from_pretrained(tmp_path / "out") for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = control(its_tokenizer)
    assert_close(logits(plain, its_tokenizer), logits(model, tokenizer))
    assert not torch.allclose(logits(plain, its_tokenizer), before, atol=1e-2)
    assert plain.config.use_cache is True
    assert plain.generation_config.eos_token_id == [ids.im_end, ids.endoftext]
    assert (plain.config.eos_token_id, its_tokenizer.eos_token_id) == (ids.im_end, ids.im_end)
    assert plain.get_input_embeddings().weight.shape[0] >= len(its_tokenizer)
    rendered = its_tokenizer.apply_chat_template(CONVERSATION, tokenize=True, return_dict=False)
    assert rendered == encode(CONVERSATION, tokenizer).input_ids


def test_lora_trains_control_token_rows_and_loads_in_plain_transformers(base, tmp_path, request):
    tokenizer, model = load(base)
    ids = control(tokenizer)
    tools = [] if "llama" in request.node.name else tokenizer.convert_tokens_to_ids(["<tool_call>", "</tool_call>"])
    rows = [ids.im_start, ids.im_end, *tools]
    tables = {
        "input": model.get_input_embeddings().weight.clone(),
        "output": model.get_output_embeddings().weight.clone(),
    }
    adapted = get_peft_model(model, lora_config(Lora(r=4, target_modules="all-linear"), model, tokenizer))
    step(adapted, tokenizer)
    for name, table in (("input", adapted.get_input_embeddings()), ("output", adapted.get_output_embeddings())):
        changed = (table.weight - tables[name]).abs().amax(1).nonzero()[:, 0].tolist()
        assert changed == sorted(rows), name
    expected = logits(adapted, tokenizer)
    save_model(adapted, tokenizer, tmp_path / "out")

    save_model(adapted, tokenizer, tmp_path / "merged", merge=True)
    for folder in (tmp_path / "out", tmp_path / "merged"):
        plain = AutoModelForCausalLM.from_pretrained(folder)
        assert_close(logits(plain, tokenizer), expected, atol=1e-5, rtol=1e-5)
    assert plain.generation_config.eos_token_id == [ids.im_end, ids.endoftext]
    assert is_adapter(str(tmp_path / "out")) == ("llama" not in request.node.name)
    assert not is_adapter(str(tmp_path / "merged"))
    again = load_causal(str(tmp_path / "out"), Model(path=""), load_tokenizer(str(tmp_path / "out")), trained=False)
    assert_close(logits(again, tokenizer), expected, atol=1e-5, rtol=1e-5)
    assert again.generation_config.eos_token_id == [ids.im_end, ids.endoftext]


def test_trained_weights_are_float32_and_frozen_ones_have_the_compute_dtype(base):
    tokenizer = load_tokenizer(base)
    trained = load_causal(base, Model(path=base, dtype="bfloat16"), tokenizer, trained=True)
    frozen = load_causal(base, Model(path=base, dtype="bfloat16"), tokenizer, trained=False)
    assert (trained.dtype, frozen.dtype) == (torch.float32, torch.bfloat16)
    assert trained.training
    assert not frozen.training
    assert not any(p.requires_grad for p in frozen.parameters())


def scores(model, tokenizer):
    row = pack([encode(CONVERSATION, tokenizer).input_ids[:-1]])
    with torch.no_grad():
        return model.eval()(**row, score_positions=row["cu_seq_lens_q"][1:].long() - 1).logits


@pytest.fixture
def reward_folder(base, tmp_path):
    tokenizer = load_tokenizer(base)
    model = new_scalar(base, Model(path=base), tokenizer, seed=1)
    model.config.score_offset = 0.5
    save_model(model, tokenizer, tmp_path / "reward")
    return tmp_path / "reward", scores(model, tokenizer), tokenizer


def test_a_saved_reward_model_has_its_head_and_offset(reward_folder):
    folder, expected, tokenizer = reward_folder
    again = load_scalar(str(folder), Model(path=""), tokenizer, trained=False)
    assert again.config.score_offset == 0.5
    assert_close(scores(again, tokenizer), expected)


def test_a_new_head_depends_on_the_seed_only(base):
    tokenizer = load_tokenizer(base)
    one, same, other = (new_scalar(base, Model(path=base), tokenizer, seed).score.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_lora_reward_model_is_saved_merged(base, tmp_path):
    tokenizer = load_tokenizer(base)
    model = new_scalar(base, Model(path=base), tokenizer, seed=1)
    adapted = get_peft_model(model, lora_config(Lora(r=4), model, tokenizer))
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.5)
    row = pack([encode(CONVERSATION, tokenizer).input_ids[:-1]])
    adapted(**row, score_positions=row["cu_seq_lens_q"][1:].long() - 1).logits.sum().backward()
    optimizer.step()
    adapted.config.score_offset = 0.25
    expected = scores(adapted, tokenizer)
    save_model(adapted, tokenizer, tmp_path / "reward")
    again = load_scalar(str(tmp_path / "reward"), Model(path=""), tokenizer, trained=False)
    assert again.config.score_offset == 0.25
    assert_close(scores(again, tokenizer), expected, atol=1e-5, rtol=1e-5)


def test_a_reward_model_without_its_head_is_refused(reward_folder):
    folder, _, tokenizer = reward_folder
    weights = load_file(folder / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError) as error:
        load_scalar(str(folder), Model(path=""), tokenizer, trained=False)
    assert str(error.value) == (
        f"{folder} lacks score.weight: a reward model without its head would score at random; "
        "copy the whole folder that make rm wrote"
    )


def test_a_reward_model_without_its_offset_is_refused(reward_folder):
    folder, _, tokenizer = reward_folder
    config = json.loads((folder / "config.json").read_text())
    del config["score_offset"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError) as error:
        load_scalar(str(folder), Model(path=""), tokenizer, trained=False)
    assert str(error.value) == f"{folder} is not a reward model: it has no score_offset; train one with: make rm"


def test_a_folder_without_a_model_is_reported_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"^no tokenizer at .*empty \(.*\); give a model folder or a hub id$"):
        load_tokenizer(str(tmp_path / "empty"))


@pytest.fixture(params=[1, 3])
def foreign(request, tmp_path):
    """Return a sequence classification model saved by plain transformers, with that many labels, and its folder."""
    tokenizer = qwen()
    torch.manual_seed(3)
    config = small_config(vocab_size=len(tokenizer), num_labels=request.param, pad_token_id=0)
    model = Qwen2ForSequenceClassification(config)
    model.save_pretrained(tmp_path / "foreign")
    tokenizer.save_pretrained(tmp_path / "foreign")
    return str(tmp_path / "foreign"), model


def test_a_foreign_reward_model_keeps_a_head_of_one_label_and_replaces_others(foreign, capsys):
    path, plain = foreign
    tokenizer = load_tokenizer(path)
    model = new_scalar(path, Model(path=path), tokenizer, seed=1)
    assert_close(model.model.state_dict(), plain.model.state_dict())
    if plain.config.num_labels == 1:
        assert torch.equal(model.score.weight, plain.score.weight)
        note = "is a reward model from another tool: its head is kept, and its score is read at the last <|im_end|>"
    else:
        assert model.score.weight.shape == (1, 32)
        assert torch.equal(model.score.weight, new_scalar(path, Model(path=path), tokenizer, seed=1).score.weight)
        note = "has a head with 3 labels; it is replaced by a new head with one label"
    assert capsys.readouterr().out.splitlines()[0] == f"{path} {note}"
    ids = encode(CONVERSATION, tokenizer).input_ids[:-1]
    with torch.no_grad(), use_attention(plain.eval(), "eager"):
        body = plain.model(torch.tensor([ids])).last_hidden_state[0, -1]
    assert_close(scores(model, tokenizer)[0], model.score.weight @ body)


@pytest.mark.parametrize("foreign", [1], indirect=True)
def test_a_foreign_reward_model_without_its_head_is_refused(foreign):
    path, _ = foreign
    weights = load_file(f"{path}/model.safetensors")
    del weights["score.weight"]
    save_file(weights, f"{path}/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"lacks score\.weight, which would be initialised at random"):
        new_scalar(path, Model(path=path), load_tokenizer(path), seed=1)


@pytest.mark.parametrize("change", ["prefix", "missing"])
def test_an_adapter_with_missing_or_renamed_tensors_is_refused(tmp_path, change):
    """peft only warns of missing tensors and merges the rest, and it ignores unknown ones silently."""
    tokenizer = qwen()
    small_model("qwen2", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    tokenizer, model = load(str(tmp_path / "base"))
    adapted = get_peft_model(model, lora_config(Lora(r=4, target_modules="all-linear"), model, tokenizer))
    out = tmp_path / "out"
    save_model(adapted, tokenizer, out)
    weights = load_file(out / "adapter_model.safetensors")
    first = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
    if change == "prefix":
        weights = {"module." + key: value for key, value in weights.items()}
        found = "lacks base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta; copy its whole folder"
    else:
        del weights[first]
        found = f"lacks {first}; its tensors do not match its adapter_config.json"
    save_file(weights, out / "adapter_model.safetensors")
    with pytest.raises(RunError) as error:
        load_causal(str(out), Model(path=""), tokenizer, trained=False)
    assert str(error.value).startswith(f"the adapter in {out} ")
    assert found in str(error.value)


def test_rotary_frequencies_stay_float32_in_a_frozen_bfloat16_model(base):
    """In bfloat16 the angles of distant positions would differ from those in training."""
    frozen = load_causal(base, Model(path=base, dtype="bfloat16"), load_tokenizer(base), trained=False)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    for (name, ours), (_, theirs) in zip(frozen.named_buffers(), plain.named_buffers(), strict=True):
        assert ours.dtype == torch.float32, name
        assert torch.equal(ours, theirs), name


def test_the_embedding_of_a_token_that_is_also_padding_gets_a_gradient(tmp_path):
    """transformers gives the padding token's row no gradient; SmolLM2 pads with <|im_end|>."""
    tokenizer = qwen()
    pads = control(tokenizer).im_end
    small = small_model("qwen2", vocab_size=len(tokenizer), tie_word_embeddings=False, pad_token_id=pads)
    small.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    _, model = load(str(tmp_path / "base"))
    reads = [pads, *control(tokenizer).markers.values()]
    inputs = pack([reads], "cpu")
    model(**inputs, logprob_positions=torch.tensor([1]), logprob_targets=torch.tensor([3])).logprobs.sum().backward()
    assert model.get_input_embeddings().weight.grad[pads].abs().max() > 0
