"""Attention implementations: which one `model.attention` selects, what each supports, sliding windows by hand."""

import pytest
import torch
from torch.testing import assert_close

from engine.compat import attention_of
from engine.errors import RunError
from engine.forward import attention
from engine.forward.attention import (
    decoding_attention,
    implementation_of,
    packed_attention,
    refuse_unless_full_attention,
    shares_prefixes,
    use_attention,
    use_shared_prefixes,
)
from engine.forward.packed import pack
from tests.support.small_models import small_model

SEQUENCES = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14, 15]]


@pytest.mark.parametrize(
    ("gpu", "installed", "expected"),
    [(True, True, "flash_attention_2"), (True, False, "packed"), (False, True, "packed"), (False, False, "packed")],
)
def test_auto_selects_flash_attention_if_available_else_packed(monkeypatch, gpu, installed, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: installed)
    assert implementation_of("auto") == expected
    assert implementation_of("eager") == "eager"


def test_packed_attention_without_lengths_is_an_error():
    model = small_model()
    with use_attention(model, "packed"), pytest.raises(ValueError, match="called without the sequences' lengths"):
        model(torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize("lengths", [[5, 2, 4], [4, 4, 4]])
@pytest.mark.parametrize("window", [1, 3, 4, 9])
def test_a_sliding_window_by_hand(lengths, window):
    """Values are one-hot and all scores equal, so an output is the weight of each key that its query attends to."""
    total = sum(lengths)
    key = torch.zeros(1, 1, total, total)
    arguments = {
        name: value for name, value in pack([[7] * n for n in lengths]).items() if "seq" in name or "max" in name
    }
    out, _ = packed_attention(None, key, key, torch.eye(total)[None, None], None, sliding_window=window, **arguments)
    expected, start = torch.zeros(total, total), 0
    for length in lengths:
        for at in range(length):
            first = max(0, at - window + 1)
            expected[start + at, start + first : start + at + 1] = 1 / (at - first + 1)
        start += length
    assert_close(out[0, :, 0], expected)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_packed_sliding_windows_equal_transformers_on_single_sequences(family):
    """Only the second layer has a window; sequences are shorter than it, as long, and longer."""
    model = small_model(family, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    sequences = [[5, 6, 7, 8, 9, 10, 11, 12, 13], [10, 11], [12, 13, 14, 15]]
    with use_attention(model, "eager"):
        single = torch.cat([model(torch.tensor([s]), use_cache=False).logits[0] for s in sequences])
    with use_attention(model, "packed"):
        packed = model(**pack(sequences)).logits[0]
        perturbed = model(**pack([[200, *sequences[0][1:]], *sequences[1:]])).logits[0]
    assert_close(packed, single, atol=1e-5, rtol=1e-5)
    assert not torch.equal(perturbed[3], packed[3])
    assert torch.equal(perturbed[9:], packed[9:])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"s_aux": torch.zeros(2)}, "s_aux"),
        ({"softcap": 50.0, "position_ids": torch.zeros(1)}, "softcap"),
        ({"attention_mask": torch.zeros(1, 1, 3, 3)}, "attention_mask"),
        ({"is_causal": False}, "is_causal=False"),
    ],
)
def test_packed_attention_refuses_arguments_that_it_would_ignore(given, named):
    q = k = v = torch.ones(1, 2, 3, 4)
    lengths = pack([[5, 6, 7]])
    known = {name: lengths[name] for name in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")}
    harmless = {"is_causal": True, "position_ids": lengths["position_ids"], "use_cache": False, "softcap": None}
    attention.packed_attention(torch.nn.Module(), q, k, v, None, **known, **harmless)
    mask = given.pop("attention_mask", None)
    with pytest.raises(ValueError, match=rf"^packed attention does not support {named}$"):
        attention.packed_attention(torch.nn.Module(), q, k, v, mask, **known, **given)


def test_use_attention_restores_the_implementation_also_after_an_error():
    model = small_model()
    before = attention_of(model)
    with use_attention(model, "packed"):
        assert attention_of(model) == "packed"
    assert attention_of(model) == before
    with pytest.raises(ValueError, match="lengths"), use_attention(model, "packed"):
        model(torch.tensor([[5, 6, 7]]))
    assert attention_of(model) == before != "packed"


def test_decoding_attention_is_sdpa_for_any_implementation():
    model = small_model()
    with use_attention(model, "packed"):
        with decoding_attention(model):
            assert attention_of(model) == "sdpa"
        assert attention_of(model) == "packed"


def test_only_packed_attention_shares_prefixes():
    model = small_model()
    for implementation, shares in (("sdpa", False), ("eager", False), ("packed", True)):
        with use_attention(model, implementation):
            assert shares_prefixes(model) == shares
    use_shared_prefixes(model)
    assert shares_prefixes(model)


def test_sliding_window_layers_are_refused_as_not_full_attention():
    refuse_unless_full_attention(small_model().config)
    windowed = small_model(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(RunError, match="supports full attention only"):
        refuse_unless_full_attention(windowed.config)
