"""Engines that generate PPO's responses. `ENGINES` maps the values of `sampling.engine` to them.

own            our decode loop: random numbers by (seed, step, query, response, token), repeatable bit for bit
compiled       the same, with the forward pass of one token compiled; made for GPUs, but run on CPUs only so far
transformers   transformers' continuous batching (generate_batch); repeatable under the same versions
vllm           vLLM through trl.generation, in this process; weights are synchronised before every rollout. This
               engine has not been run with vLLM itself
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedTokenizerBase

from config.sections import PolicySampling
from engine.dist.shard_model import gathered_weights
from engine.dist.sharding import sharding_of
from engine.errors import RunError
from engine.forward.attention import decoding_attention
from engine.generation.compiled import CompiledDecoder
from engine.generation.request import GenerationRequest, Response
from engine.generation.sampling import evaluation_mode, sample
from engine.generation.tensor_parallel import TensorParallelGroup


class Engine(Protocol):
    """Generates responses with the current weights of the policy that it was created for."""

    records_supports: bool
    """whether it can return the set that each token was drawn from, which `sampling.logprobs=truncated` needs"""

    def __init__(
        self,
        policy: torch.nn.Module,
        sampling: PolicySampling,
        end: int,
        *,
        accelerator: Accelerator,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
    ) -> None: ...

    def generate(self, request: GenerationRequest) -> list[list[Response]]:
        """Return the responses to each prompt, in the prompts' order (collective: every rank must call it).

        Each rank passes its own share of the prompts.
        """


class OwnEngine:
    """Our decode loop, tensor-parallel if `sampling.split` > 1; `end` is the id of the token that ends a response."""

    records_supports = True
    compiled: CompiledDecoder | None = None

    def __init__(
        self, policy: torch.nn.Module, sampling: PolicySampling, end: int, *, accelerator: Accelerator, **_: Any
    ):
        self.wrapped, self.policy = policy, accelerator.unwrap_model(policy)
        self.sampling, self.end, self.accelerator = sampling, end, accelerator
        self.tensor_parallel = (
            TensorParallelGroup(self.policy, sampling.split, accelerator) if sampling.split > 1 else None
        )

    def generate(self, request: GenerationRequest) -> list[list[Response]]:
        stops = self.policy.generation_config.eos_token_id
        decode = partial(sample, sampling=self.sampling, end=self.end, stops=stops, compiled=self.compiled)
        with self.accelerator.autocast():
            if self.tensor_parallel is not None:
                return self.tensor_parallel.generate(decode, request)
            with gathered_weights(self.wrapped, self.accelerator):
                return decode(self.policy, request)


class CompiledEngine(OwnEngine):
    """Our decode loop with a compiled forward pass, for a policy that is not sharded."""

    def __init__(
        self, policy: torch.nn.Module, sampling: PolicySampling, end: int, *, accelerator: Accelerator, **_: Any
    ):
        super().__init__(policy, sampling, end, accelerator=accelerator)
        if sharding_of(accelerator).kind != "none":  # gathered weights have a new address every time
            raise RunError(
                "sampling.engine=compiled runs in one process or under ddp; use HARDWARE=ddp, or sampling.engine=own"
            )
        self.compiled = CompiledDecoder(self.policy)


class ContinuousBatchingEngine:
    """transformers' `generate_batch`, for whole batches of prompts on each rank."""

    records_supports = False

    def __init__(
        self, policy: torch.nn.Module, sampling: PolicySampling, end: int, *, accelerator: Accelerator, **_: Any
    ):
        self.wrapped, self.policy = policy, accelerator.unwrap_model(policy)
        self.sampling, self.end, self.accelerator = sampling, end, accelerator
        self.returns_logprobs = sampling.top_p >= 1  # with top_p < 1 they are those within the nucleus
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
        # By default the library reserves nine tenths of the free memory.
        batching.num_blocks = max(1, at_once * -(-longest // batching.page_size))
        with (
            decoding_attention(self.policy),
            evaluation_mode(self.policy),
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
        return group_responses(tokens, logprobs, request.responses, self.end)


class VLLMEngine:
    """vLLM in this process, through TRL."""

    records_supports = False

    def __init__(
        self,
        policy: torch.nn.Module,
        sampling: PolicySampling,
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
        return group_responses(tokens, logprobs, request.responses, self.end)


ENGINES: dict[str, type[Engine]] = {
    "own": OwnEngine,
    "compiled": CompiledEngine,
    "transformers": ContinuousBatchingEngine,
    "vllm": VLLMEngine,
}


def repeated_prompts(request: GenerationRequest) -> list[list[int]]:
    """Return each prompt once per response, a prompt's copies next to each other."""
    return [list(prompt) for prompt in request.prompts for _ in range(request.responses)]


def group_responses(
    tokens: Sequence[Sequence[int]], logprobs: Sequence[list[float] | None], responses: int, end: int
) -> list[list[Response]]:
    """Group rows of tokens and log-probabilities by prompt; a prompt's `responses` rows are next to each other."""
    rows = [Response(list(row), row[-1] == end, found) for row, found in zip(tokens, logprobs, strict=True)]
    return [rows[at : at + responses] for at in range(0, len(rows), responses)]


def refuse_without_supports(name: str, logprobs: str) -> None:
    """Raise RunError if `sampling.logprobs` needs the sets that tokens were drawn from, which engine `name` lacks."""
    if logprobs == "truncated" and not ENGINES[name].records_supports:
        able = " or ".join(known for known, engine in ENGINES.items() if engine.records_supports)
        raise RunError(
            f"sampling.logprobs=truncated needs the set that each token was drawn from, which sampling.engine={name} "
            f"does not return; use sampling.engine={able}, or sampling.logprobs=full"
        )
