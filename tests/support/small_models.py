"""Small random models for tests: one of each family that the recipes use, and a mixture of experts."""

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
}
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}


def small_config(family: str = "qwen2", **changes: object) -> object:
    extra = ({"head_dim": 8} if "qwen3" in family else {}) | (EXPERTS if "moe" in family else {})
    return FAMILIES[family][0](**{**SIZES, **extra, "initializer_range": 0.2, **changes})


def small_model(family: str = "qwen2", seed: int = 0, **changes: object) -> PreTrainedModel:
    """Return a random model with larger weights than usual, so that errors show in the third digit, not the ninth."""
    torch.manual_seed(seed)
    return FAMILIES[family][1](small_config(family, **changes)).eval()
