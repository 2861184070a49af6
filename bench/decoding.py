"""Our decode loop, plain and compiled: seconds a rollout, in turn in one process, on the GPU or else the CPU.

    python -m bench.decoding       a line a case; runs of one thread say more of a busy machine (OMP_NUM_THREADS=1)

Random weights of 7.4 M parameters, vocabulary 8,000, prompts of 64 tokens, responses of 64 that nothing ends.
"""

import time
from statistics import median

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from config.sections import Sampling
from engine.dist.devices import default_device
from engine.generation.compiled import CompiledDecoder
from engine.generation.request import GenerationRequest
from engine.generation.sampling import sample
from engine.generation.streams import RandomStream

ROUNDS, PROMPT, ANSWER, NEVER = 5, 64, 64, 8000
# Name -> prompts, responses to each, and the type of matrix products.
CASES = {
    "16 answers, float32": (16, 1, torch.float32),
    "16 answers, bfloat16": (16, 1, torch.bfloat16),
    "128 answers, two a prompt, float32": (64, 2, torch.float32),
}


def main() -> None:
    print(f"{'seconds a rollout, median of ' + str(ROUNDS):<40}{'plain':>8}{'compiled':>10}{'ratio':>22}{'first':>8}")
    for name, case in CASES.items():
        plain, compiled, first = raced(*case)
        ratios = [one / other for one, other in zip(plain, compiled, strict=True)]
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{name:<40}{median(plain):>8.2f}{median(compiled):>10.2f}{ratio:>22}{first:>8.1f}", flush=True)


def raced(prompts: int, responses: int, dtype: torch.dtype) -> tuple[list[float], list[float], float]:
    """Return the seconds of either side in every round, and of the first compiled rollout."""
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
    model = Qwen2ForCausalLM(config).to(device).eval()
    tokens = torch.randint(8000, (prompts, PROMPT)).tolist()
    sampling = Sampling(max_new_tokens=ANSWER)

    def seconds(compiled: CompiledDecoder | None, step: int) -> float:
        began = time.perf_counter()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            request = GenerationRequest(tokens, range(prompts), responses, RandomStream.of_step(0, step))
            sample(model, request, sampling, end=NEVER, stops=[NEVER], compiled=compiled)
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
