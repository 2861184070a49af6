"""Engines that generate PPO's responses. `ENGINES` maps the values of `sampling.engine` to them.

own            our decode loop: random numbers by (seed, step, query, response, token), bit for bit repeatable
compiled       the same, with the forward pass of one token compiled. Not run on a GPU, for which it is meant
transformers   transformers' continuous batching (generate_batch); repeatable under the same versions
vllm           vLLM through trl.generation, in this process, weights synchronised after every update.
               Not tested: it could not be run where plumbline was written.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedTokenizerBase

from config.sections import Sampling
from engine.dist.shard_model import gathered_weights
from engine.dist.sharding import sharding_of
from engine.errors import RunError
from engine.forward.attention import decoding_attention
from engine.generation.compiled import CompiledDecoder
from engine.generation.request import GenerationRequest, Response
from engine.generation.sampling import evaluating, sample
from engine.generation.tensor_parallel import Team


class Engine(Protocol):
    """Generates responses of the policy that it was made with, at the policy's present weights."""

    records_supports: bool
    """whether it can return the set that a token was drawn from, which `sampling.logprobs=truncated` needs"""

    def generate(self, request: GenerationRequest) -> list[list[Response]]:
        """Return the responses to each prompt, in the prompts' order (collective: every rank must call it).

        Ranks pass their own share of the prompts.
        """


class OwnEngine:
    records_supports = True
    compiled: CompiledDecoder | None = None

    def __init__(self, policy: torch.nn.Module, sampling: Sampling, end: int, *, accelerator: Accelerator, **_: Any):
        self.wrapped, self.policy = policy, accelerator.unwrap_model(policy)
        self.sampling, self.end, self.accelerator = sampling, end, accelerator
        self.team = Team(self.policy, sampling.split, accelerator) if sampling.split > 1 else None

    def generate(self, request: GenerationRequest) -> list[list[Response]]:
        stops = self.policy.generation_config.eos_token_id
        decode = partial(sample, sampling=self.sampling, end=self.end, stops=stops, compiled=self.compiled)
        with self.accelerator.autocast():
            if self.team is not None:
                return self.team.generate(decode, request)
            with gathered_weights(self.wrapped, self.accelerator):
                return decode(self.policy, request)


class CompiledEngine(OwnEngine):
    def __init__(self, policy: torch.nn.Module, sampling: Sampling, end: int, *, accelerator: Accelerator, **_: Any):
        super().__init__(policy, sampling, end, accelerator=accelerator)
        if sharding_of(accelerator).kind != "none":  # gathered weights are at another address every time
            raise RunError(
                "sampling.engine=compiled runs in one process or under ddp; use HARDWARE=ddp, or sampling.engine=own"
            )
        self.compiled = CompiledDecoder(self.policy)


class ContinuousBatchingEngine:
    records_supports = False

    def __init__(self, policy: torch.nn.Module, sampling: Sampling, end: int, *, accelerator: Accelerator, **_: Any):
        self.wrapped, self.policy = policy, accelerator.unwrap_model(policy)
        self.sampling, self.end, self.accelerator = sampling, end, accelerator
        self.returns_logprobs = sampling.top_p >= 1  # else they are of the nucleus
        self.config = GenerationConfig(
            do_sample=True,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=0,
            max_new_tokens=sampling.max_new_tokens,
            eos_token_id=self.policy.generation_config.eos_token_id,
            pad_token_id=self.policy.generation_config.pad_token_id,
        )

    def generate(self, request: GenerationRequest) -> list[list[Response]]:
        prompts = repeated_prompts(request)
        batching = ContinuousBatchingConfig(return_logprobs=self.returns_logprobs)
        longest = max(map(len, prompts), default=0) + self.config.max_new_tokens
        at_once = min(self.sampling.batch_size, len(prompts))
        # By default the library takes nine tenths of the free memory.
        batching.num_blocks = max(1, at_once * -(-longest // batching.page_size))
        with (
            decoding_attention(self.policy),
            evaluating(self.policy),
            gathered_weights(self.wrapped, self.accelerator),
            torch.random.fork_rng(),
        ):
            torch.manual_seed(request.stream.generator_seed(request.query_ids[0] if request.query_ids else 0))
            found = self.policy.generate_batch(
                prompts, generation_config=self.config, continuous_batching_config=batching
            )
        if len(found) != len(prompts):
            raise RunError(
                f"sampling.engine=transformers generated {len(found)} of {len(prompts)} responses; "
                "use sampling.engine=own"
            )
        tokens = [output.generated_tokens for output in found.values()]
        logprobs = [output.logprobs if self.returns_logprobs else None for output in found.values()]
        return grouped(tokens, logprobs, request.responses, self.end)


class VLLMEngine:
    records_supports = False

    def __init__(
        self,
        policy: torch.nn.Module,
        sampling: Sampling,
        end: int,
        *,
        accelerator: Accelerator,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
    ):
        try:
            from trl.generation.vllm_generation import VLLMGeneration

            self.engine = VLLMGeneration(
                accelerator.unwrap_model(policy),
                accelerator,
                tokenizer,
                mode="colocate",
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                logprobs=0,
                max_completion_length=sampling.max_new_tokens,
                gpu_memory_utilization=0.3,
                generation_kwargs={"seed": seed},
            )
        except ImportError as error:
            raise RunError(f"sampling.engine=vllm: {error}; pip install vllm, or use sampling.engine=own") from None
        self.end, self.returns_logprobs = end, sampling.top_p >= 1

    def generate(self, request: GenerationRequest) -> list[list[Response]]:
        self.engine.sync_weights()
        _, tokens, found, _ = self.engine.generate(
            repeated_prompts(request), images=None, num_generations=request.responses
        )
        logprobs = [[at[0] for at in row] if self.returns_logprobs else None for row in found]
        return grouped(tokens, logprobs, request.responses, self.end)


ENGINES: dict[str, type[Engine]] = {
    "own": OwnEngine,
    "compiled": CompiledEngine,
    "transformers": ContinuousBatchingEngine,
    "vllm": VLLMEngine,
}


def repeated_prompts(request: GenerationRequest) -> list[list[int]]:
    """Return the prompts, each once for every response asked for, side by side."""
    return [list(prompt) for prompt in request.prompts for _ in range(request.responses)]


def grouped(
    tokens: Sequence[Sequence[int]], logprobs: Sequence[list[float] | None], responses: int, end: int
) -> list[list[Response]]:
    """Return rows of tokens and their log-probabilities as the responses of each prompt, which stand side by side."""
    rows = [Response(list(row), row[-1] == end, found) for row, found in zip(tokens, logprobs, strict=True)]
    return [rows[at : at + responses] for at in range(0, len(rows), responses)]


def refuse_without_supports(name: str, logprobs: str) -> None:
    """Raise RunError if `sampling.logprobs` needs the sets that tokens were drawn from and the engine hides them."""
    if logprobs == "truncated" and not ENGINES[name].records_supports:
        able = " or ".join(known for known, engine in ENGINES.items() if engine.records_supports)
        raise RunError(
            f"sampling.logprobs=truncated needs the set that each token was drawn from, which sampling.engine={name} "
            f"does not return; use sampling.engine={able}, or sampling.logprobs=full"
        )
