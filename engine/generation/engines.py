"""Engines: what writes the responses. One class each; `ENGINES` names them for `sampling.engine`.

own            our decode loop: random numbers by (seed, step, query, response, token), bit for bit repeatable
compiled       the same, its forward pass of a token compiled. Not run on a GPU, for which it is meant
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
from engine.forward.packed import attention
from engine.generation.compiled import Compiled
from engine.generation.draws import uniform
from engine.generation.sampling import Response, evaluating, sample
from engine.generation.tensor_parallel import Team


class Engine(Protocol):
    """Writes responses of the policy, which it is given prepared, as it is at the moment of the call."""

    records: bool
    """whether it can return the set that a token was drawn from, which `sampling.logprobs=truncated` needs"""

    def write(
        self, prompts: Sequence[Sequence[int]], *, responses: int, step: int, query_ids: Sequence[int], record: bool
    ) -> list[list[Response]]:
        """`responses` responses to each prompt, in the prompts' order."""


class Own:
    records = True
    compiled: Compiled | None = None

    def __init__(
        self, policy: torch.nn.Module, sampling: Sampling, end: int, seed: int, *, accelerator: Accelerator, **_: Any
    ):
        self.wrapped, self.policy = policy, accelerator.unwrap_model(policy)
        self.sampling, self.end, self.seed, self.accelerator = sampling, end, seed, accelerator
        self.team = Team(self.policy, sampling.split, accelerator) if sampling.split > 1 else None

    def write(
        self, prompts: Sequence[Sequence[int]], *, responses: int, step: int, query_ids: Sequence[int], record: bool
    ) -> list[list[Response]]:
        written = partial(
            sample, sampling=self.sampling, responses=responses, end=self.end,
            stops=self.policy.generation_config.eos_token_id, seed=self.seed, step=step, record=record,
            compiled=self.compiled,
        )  # fmt: skip
        with self.accelerator.autocast():
            if self.team is not None:
                return self.team.write(written, prompts, query_ids)
            with gathered_weights(self.wrapped, self.accelerator):
                return written(self.policy, prompts, query_ids=query_ids)


class OwnCompiled(Own):
    def __init__(
        self, policy: torch.nn.Module, sampling: Sampling, end: int, seed: int, *, accelerator: Accelerator, **_: Any
    ):
        super().__init__(policy, sampling, end, seed, accelerator=accelerator)
        if sharding_of(accelerator).kind != "none":  # gathered weights stand elsewhere every time
            raise RunError(
                "sampling.engine=compiled runs in one process or under ddp; use HARDWARE=ddp, or sampling.engine=own"
            )
        self.compiled = Compiled(self.policy)


class ContinuousBatching:
    records = False

    def __init__(
        self, policy: torch.nn.Module, sampling: Sampling, end: int, seed: int, *, accelerator: Accelerator, **_: Any
    ):
        self.wrapped, self.policy = policy, accelerator.unwrap_model(policy)
        self.sampling, self.end, self.seed, self.accelerator = sampling, end, seed, accelerator
        self.whole = sampling.top_p >= 1  # else its log-probabilities are of the nucleus
        self.config = GenerationConfig(
            do_sample=True, temperature=sampling.temperature, top_p=sampling.top_p, top_k=0,
            max_new_tokens=sampling.max_new_tokens, eos_token_id=self.policy.generation_config.eos_token_id,
            pad_token_id=self.policy.generation_config.pad_token_id,
        )  # fmt: skip

    def write(
        self, prompts: Sequence[Sequence[int]], *, responses: int, step: int, query_ids: Sequence[int], record: bool
    ) -> list[list[Response]]:
        repeated = [list(prompt) for prompt in prompts for _ in range(responses)]
        first = query_ids[0] if query_ids else 0
        batching = ContinuousBatchingConfig(return_logprobs=self.whole)
        longest = max(map(len, repeated), default=0) + self.config.max_new_tokens
        at_once = min(self.sampling.batch_size, len(repeated))  # left to itself it takes nine tenths of free memory
        batching.num_blocks = max(1, at_once * -(-longest // batching.page_size))
        with (
            attention(self.policy, "sdpa"),
            evaluating(self.policy),
            gathered_weights(self.wrapped, self.accelerator),
            torch.random.fork_rng(),
        ):
            torch.manual_seed(int(float(uniform(self.seed, step, first)) * 2**62))
            found = self.policy.generate_batch(
                repeated, generation_config=self.config, continuous_batching_config=batching
            )  # fmt: skip
        if len(found) != len(repeated):
            raise RunError(f"sampling.engine=transformers wrote {len(found)} of {len(repeated)} answers; use own")
        written = [(out.generated_tokens, out.logprobs if self.whole else None) for out in found.values()]
        return grouped(written, responses, self.end)


class Vllm:
    records = False

    def __init__(
        self,
        policy: torch.nn.Module,
        sampling: Sampling,
        end: int,
        seed: int,
        *,
        accelerator: Accelerator,
        tokenizer: PreTrainedTokenizerBase,
    ):
        try:
            from trl.generation.vllm_generation import VLLMGeneration

            self.engine = VLLMGeneration(
                accelerator.unwrap_model(policy), accelerator, tokenizer, mode="colocate",
                temperature=sampling.temperature, top_p=sampling.top_p, logprobs=0,
                max_completion_length=sampling.max_new_tokens, gpu_memory_utilization=0.3,
                generation_kwargs={"seed": seed},
            )  # fmt: skip
        except ImportError as error:
            raise RunError(f"sampling.engine=vllm: {error}; pip install vllm, or use sampling.engine=own") from None
        self.end, self.whole = end, sampling.top_p >= 1

    def write(
        self, prompts: Sequence[Sequence[int]], *, responses: int, step: int, query_ids: Sequence[int], record: bool
    ) -> list[list[Response]]:
        self.engine.sync_weights()
        repeated = [list(prompt) for prompt in prompts for _ in range(responses)]
        _, tokens, logprobs, _ = self.engine.generate(repeated, images=None, num_generations=responses)
        written = [
            (row, [at[0] for at in told] if self.whole else None) for row, told in zip(tokens, logprobs, strict=True)
        ]
        return grouped(written, responses, self.end)


ENGINES: dict[str, type[Engine]] = {
    "own": Own,
    "compiled": OwnCompiled,
    "transformers": ContinuousBatching,
    "vllm": Vllm,
}


def grouped(written: list[tuple[list[int], list[float] | None]], responses: int, end: int) -> list[list[Response]]:
    """Rows of tokens with their log-probabilities as the responses of each prompt, side by side."""
    rows = [Response(list(tokens), tokens[-1] == end, logprobs) for tokens, logprobs in written]
    return [rows[at : at + responses] for at in range(0, len(rows), responses)]


def refuse_without_record(name: str, logprobs: str) -> None:
    """RunError if log-probabilities within the set that was drawn from are asked of an engine that hides it."""
    if logprobs == "truncated" and not ENGINES[name].records:
        able = " or ".join(known for known, engine in ENGINES.items() if engine.records)
        raise RunError(
            f"sampling.logprobs=truncated needs the set that each token was drawn from, which sampling.engine={name} "
            f"does not return; use sampling.engine={able}, or sampling.logprobs=full"
        )
