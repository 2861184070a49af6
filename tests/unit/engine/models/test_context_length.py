"""The longest sequence of a run compared with the positions that a model has."""

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    BloomConfig,
    FalconConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    Phi3Config,
    Phi3ForCausalLM,
)

from engine.compat import new_model
from engine.errors import RunError
from engine.forward.packed import pack
from engine.models.context_length import check_length
from tests.support.small_models import SIZES

WHAT, WAY_OUT = "the longest row of data.train", "set data.max_length={limit}"
SMALL = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 16}


def refusal(config, longest):
    with pytest.raises(RunError) as error:
        check_length(config, longest, WHAT, WAY_OUT)
    return str(error.value)


def test_learned_positions_are_a_limit():
    config = GPT2Config(**SMALL, n_positions=1024)
    check_length(config, 1024, WHAT, WAY_OUT)
    assert refusal(config, 1025) == (
        "the longest row of data.train has 1,025 tokens, and the model has positions for 1,024; "
        "set data.max_length=1024"
    )


def test_a_model_runs_at_the_limit_and_fails_one_token_above():
    model = GPT2LMHeadModel(GPT2Config(**SMALL, n_positions=6))
    assert model(torch.zeros(1, 6, dtype=torch.long)).logits.shape == (1, 6, 16)
    with pytest.raises(IndexError):
        model(torch.zeros(1, 7, dtype=torch.long))
    assert refusal(model.config, 7).endswith("positions for 6; set data.max_length=6")


@pytest.mark.parametrize("config", [LlamaConfig, Gemma3TextConfig])
def test_rows_beyond_rotary_positions_are_allowed_with_a_warning(config, capsys):
    check_length(config(max_position_embeddings=64), 64, WHAT, WAY_OUT)
    assert capsys.readouterr().out == ""
    check_length(config(max_position_embeddings=64), 65, WHAT, WAY_OUT)
    assert capsys.readouterr().out == (
        "warning: the longest row of data.train has 65 tokens, and the model was made for 64 "
        "(max_position_embeddings); set data.max_length=64, unless you mean to train it on longer text\n"
    )


def test_only_the_first_rank_warns(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    check_length(LlamaConfig(max_position_embeddings=64), 65, WHAT, WAY_OUT)
    assert capsys.readouterr().out == ""


def test_dynamic_rope_is_refused_where_positions_depend_on_the_batch():
    config = LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_type": "dynamic", "factor": 2.0})
    check_length(config, 64, WHAT, WAY_OUT)
    assert refusal(config, 65) == (
        "the longest row of data.train has 65 tokens, and beyond 64 the model's positions (rope_type dynamic) depend "
        "on the longest sequence in the batch; set data.max_length=64"
    )


def test_longrope_is_refused_beyond_its_original_length():
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    config = Phi3Config(max_position_embeddings=128, original_max_position_embeddings=32, rope_parameters=factors)
    check_length(config, 32, WHAT, WAY_OUT)
    assert "beyond 32 the model's positions (rope_type longrope)" in refusal(config, 33)


@pytest.mark.parametrize("config", [BloomConfig(), FalconConfig(alibi=True, max_position_embeddings=64)])
def test_alibi_has_no_limit(config, capsys):
    check_length(config, 10**6, WHAT, WAY_OUT)
    assert capsys.readouterr().out == ""


def test_longrope_depends_on_other_sequences_only_beyond_its_original_length():
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    positions = {"max_position_embeddings": 64, "original_max_position_embeddings": 16, "rope_scaling": rope}
    config = Phi3Config(**{**SIZES, "pad_token_id": 0, **positions})
    torch.manual_seed(0)
    model = new_model(Phi3ForCausalLM, config, attn_implementation="packed").eval()
    with torch.no_grad():
        single, packed, long = (
            model(**pack([range(5, 10), *more])).logits[0, :5] for more in ([], [range(3, 19)], [range(3, 20)])
        )
    check_length(config, 16, WHAT, WAY_OUT)
    assert_close(packed, single)
    assert "beyond 16 the model's positions (rope_type longrope)" in refusal(config, 17)
    assert (long - single).abs().max() > 1e-4
