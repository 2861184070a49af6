"""The table in docs/models.md agrees with the self-test of a small random model of each family."""

import copy
import re
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, PretrainedConfig

from engine.compat import new_model
from engine.errors import RunError
from engine.models.architecture import causal_class
from engine.models.dropout import set_dropout
from engine.models.self_test import failure_of
from tests.support.paths import ROOT

CHOICES = ("packed", "sdpa", "eager")
# Small sizes under all names that transformers' configurations use; a family gets those that it has.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 96),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "attention_hidden_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"), 64),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 64),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("n_group", "topk_group", "num_groups", "n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("head_dim", "rotary_dim", "q_lora_rank", "kv_lora_rank", "index_head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "index_n_heads", "num_experts_per_tok"), 2),
    **{"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "index_topk": 4},
}
LATENT = ("deepseek_v2", "deepseek_v3", "youtu")
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2}
# Further settings of a family; None keeps its own value.
FURTHER_SETTINGS: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], **MAMBA},
    **{family: {"head_dim": None, "num_key_value_heads": 4} for family in LATENT},
    "falcon": {"head_dim": None},
    "falcon with alibi": {"head_dim": None, "alibi": True},
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
    "gemma3_text with a window": {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 32},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 256},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"], **MAMBA},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "mistral with a window": {"sliding_window": 32},
    "phimoe with a window": {"sliding_window": 32},
    "qwen2_moe with a window": {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
}


def small_config_of(family: str) -> PretrainedConfig:
    config_class = CONFIG_MAPPING[family.partition(" ")[0]]
    known = config_class()
    values = {key: value for key, value in SMALL.items() if hasattr(known, key)} | FURTHER_SETTINGS.get(family, {})
    return config_class(**{key: value for key, value in values.items() if value is not None})


def verdict(family: str) -> str:
    """Return the attention implementations under which a family can be trained, or why it is refused at once."""
    config = small_config_of(family)
    try:
        model_class = causal_class(config, family, in_4bit=False)
    except RunError as error:
        return f"refused: {re.search(r'(encoder-decoder|multimodal|transform their logits)', str(error))[0]}"
    set_dropout(config, 0.0)
    passes = []
    for choice in CHOICES:
        torch.manual_seed(0)
        try:
            model = new_model(model_class, copy.deepcopy(config), attn_implementation=choice)
        except (KeyError, ValueError):
            continue
        assert sum(weight.numel() for weight in model.parameters()) < 2e6, "too large for this test"
        if failure_of(model.train(), choice) is None:
            passes.append(choice)
    return ", ".join(passes) or "refused: self-test"


def table() -> dict[str, str]:
    """Return the table of docs/models.md as family -> attention implementations."""
    rows = re.findall(r"^\| `([^|]+)` \| ([^|]+) \|", (ROOT / "docs" / "models.md").read_text(encoding="utf-8"), re.M)
    return {family: under.strip() for row, under in rows for family in row.split("`, `")}


def test_the_table_has_at_least_60_families():
    assert len(table()) >= 60


@pytest.mark.parametrize("family", table())
def test_a_family_runs_as_the_table_says(family):
    assert verdict(family) == table()[family]
