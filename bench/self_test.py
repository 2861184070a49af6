"""Time of the self-test at load, for a model of 1.24 billion random parameters (the shape of Llama 3.2 1B).

    OMP_NUM_THREADS=1 .venv/bin/python -m bench.self_test

Prints a line per dtype with the seconds of five tests. Needs 6 GB of memory.
"""

import time

import torch
from transformers import LlamaConfig

from engine.compat import new_model
from engine.models import self_test
from engine.models.architecture import causal_class

CONFIG = LlamaConfig(
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128_256,
    tie_word_embeddings=True,
)
ROUNDS = 5


def main() -> None:
    model_class = causal_class(CONFIG, "bench", in_4bit=False)
    for dtype in (torch.float32, torch.bfloat16):
        model = new_model(model_class, CONFIG, attn_implementation="packed", dtype=dtype).train()
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            if failure := self_test.failure_of(model, "packed"):
                raise AssertionError(failure)
            seconds.append(time.perf_counter() - began)
        print(f"{dtype}, {torch.get_num_threads()} threads: {', '.join(f'{each:.2f}' for each in seconds)} s")


if __name__ == "__main__":
    main()
