"""Decoding with `sampling.engine` own and compiled: seconds per rollout, in one process, on the GPU if there is one.

    python -m bench.decoding       print a line per case; on a busy machine OMP_NUM_THREADS=1 gives more stable figures

The model has 7.4 M random parameters and a vocabulary of 8,000; prompts and responses have 64 tokens each.
"""

import time
from statistics import median

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from config.sections import Sampling
from engine.dist.devices import default_device, move
from engine.generation.compiled import CompiledDecoder
from engine.generation.request import GenerationRequest
from engine.generation.sampling import sample
from engine.generation.streams import RandomStream

ROUNDS, PROMPT_TOKENS, RESPONSE_TOKENS, UNUSED_ID = 5, 64, 64, 8000
# Name -> number of prompts, responses per prompt, dtype of matrix products.
CASES = {
    "16 responses, float32": (16, 1, torch.float32),
    "16 responses, bfloat16": (16, 1, torch.bfloat16),
    "128 responses, two per prompt, float32": (64, 2, torch.float32),
}


def main() -> None:
    print(f"{'seconds per rollout, median of ' + str(ROUNDS):<40}{'own':>8}{'compiled':>10}{'ratio':>22}{'first':>8}")
    for name, case in CASES.items():
        plain, compiled, first = time_case(*case)
        ratios = [one / other for one, other in zip(plain, compiled, strict=True)]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:<40}{median(plain):>8.2f}{median(compiled):>10.2f}{ratio:>22}{first:>8.1f}", flush=True)


def time_case(prompts: int, responses: int, dtype: torch.dtype) -> tuple[list[float], list[float], float]:
    """Return the seconds per rollout of own and of compiled, and those of the first compiled rollout."""
    torch.manual_seed(0)
    device = default_device()
    config = Qwen2Config(
        vocab_size=8000,
        hidden_size=256,
        intermediate_size=736,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    move(model, device)
    tokens = torch.randint(8000, (prompts, PROMPT_TOKENS)).tolist()
    sampling = Sampling(max_new_tokens=RESPONSE_TOKENS)

    def seconds(compiled: CompiledDecoder | None, step: int) -> float:
        began = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            request = GenerationRequest(tokens, range(prompts), responses, RandomStream.of_step(0, step))
            sample(model, request, sampling, end=UNUSED_ID, stops=[UNUSED_ID], compiled=compiled)
        return time.perf_counter() - began

    compiled = CompiledDecoder(model)
    seconds(None, 0)
    first, plain, fast = seconds(compiled, 0), [], []
    for step in range(1, ROUNDS + 1):
        plain.append(seconds(None, step))
        fast.append(seconds(compiled, step))
    return plain, fast, first


if __name__ == "__main__":
    main()
