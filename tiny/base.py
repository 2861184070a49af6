"""The tiny world's models before any training: a Qwen2 of half a million parameters, and one of half its width.

Weights are drawn by the seed.
"""

import torch
from transformers import PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from chatml import control


def initial_model(tokenizer: PreTrainedTokenizerBase, seed: int, width: int = 128) -> Qwen2ForCausalLM:
    """Two layers learn this world faster than four, and weights of this spread faster than Qwen's 0.02."""
    ids = control(tokenizer)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=0.08,
        eos_token_id=ids.endoftext,
        pad_token_id=ids.endoftext,
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    model.generation_config.eos_token_id = [ids.im_end, ids.endoftext]
    return model
