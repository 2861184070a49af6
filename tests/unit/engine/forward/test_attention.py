"""What the attention implementations can do, and which one `model.attention` means."""

import pytest
import torch

from engine.errors import RunError
from engine.forward import attention
from engine.forward.attention import (
    decoding_attention,
    implementation_of,
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
def test_auto_is_flash_attention_where_it_runs_else_ours(monkeypatch, gpu, installed, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: installed)
    assert implementation_of("auto") == expected
    assert implementation_of("eager") == "eager"


def test_packed_attention_needs_lengths():
    model = small_model()
    with use_attention(model, "packed"), pytest.raises(ValueError, match="called without the sequences' lengths"):
        model(torch.tensor([[5, 6, 7]]))


def test_packed_attention_refuses_a_sliding_window():
    model = small_model(use_sliding_window=True, sliding_window=3, max_window_layers=0)
    with use_attention(model, "packed"), pytest.raises(ValueError, match="no sliding window"):
        model(**pack(SEQUENCES))


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"s_aux": torch.zeros(2)}, "s_aux"),
        ({"softcap": 50.0, "position_ids": torch.zeros(1)}, "softcap"),
        ({"attention_mask": torch.zeros(1, 1, 3, 3)}, "attention_mask"),
        ({"is_causal": False}, "is_causal=False"),
    ],
)
def test_packed_attention_refuses_what_it_would_leave_out(given, named):
    q = k = v = torch.ones(1, 2, 3, 4)
    lengths = pack([[5, 6, 7]])
    known = {name: lengths[name] for name in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")}
    harmless = {"is_causal": True, "position_ids": lengths["position_ids"], "use_cache": False, "softcap": None}
    attention.packed_attention(torch.nn.Module(), q, k, v, None, **known, **harmless)
    mask = given.pop("attention_mask", None)
    with pytest.raises(ValueError, match=rf"^packed attention does not know {named}$"):
        attention.packed_attention(torch.nn.Module(), q, k, v, mask, **known, **given)


def test_attention_is_put_back_after_an_error_too():
    model = small_model()
    before = model.config._attn_implementation
    with use_attention(model, "packed"):
        assert model.config._attn_implementation == "packed"
    assert model.config._attn_implementation == before
    with pytest.raises(ValueError, match="lengths"), use_attention(model, "packed"):
        model(torch.tensor([[5, 6, 7]]))
    assert model.config._attn_implementation == before != "packed"


def test_decoding_runs_under_sdpa_whatever_the_model_has():
    model = small_model()
    with use_attention(model, "packed"):
        with decoding_attention(model):
            assert model.config._attn_implementation == "sdpa"
        assert model.config._attn_implementation == "packed"


def test_our_implementation_alone_shares_prefixes():
    model = small_model()
    for implementation, shares in (("sdpa", False), ("eager", False), ("packed", True)):
        with use_attention(model, implementation):
            assert shares_prefixes(model) == shares
    use_shared_prefixes(model)
    assert shares_prefixes(model)


def test_layers_with_a_window_are_not_full_attention():
    refuse_unless_full_attention(small_model().config)
    windowed = small_model(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(RunError, match="supports full attention only"):
        refuse_unless_full_attention(windowed.config)
