"""Tensor-parallel decoding (Shoeybi et al. 2019, arXiv 1909.08053) of a policy that does not fit on one device.

The ranks of a group generate together for all their queries. Each stores some heads of every layer with their KV cache,
a part of the MLP, and some rows of the output head, following transformers' plan for the model's class. Each rollout
gathers the weights one by one (from FSDP2, ZeRO-3 or a whole copy), keeps this rank's tensor-parallel shard, and frees
it afterwards.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from engine.compat import head_parallel_plan
from engine.dist.sharding import sharding_of
from engine.errors import RunError
from engine.generation.request import GenerationRequest, Response

# transformers' sharding styles: a layer's outputs; its inputs; its outputs, then all-gathered; not sharded.
COLWISE, ROWWISE = "colwise", "rowwise"
GATHERED, REPLICATED = "colwise_gather_output", "replicated_with_grad_allreduce"


class TensorParallelGroup:
    """`size` neighbouring ranks that shard one policy among them while it generates.

    Raises RunError if `size` does not divide the number of ranks, and as `tensor_parallel_plan` does.
    """

    def __init__(self, policy: PreTrainedModel, size: int, accelerator: Accelerator):
        self.size, self.accelerator, self.policy = size, accelerator, policy
        self.plan = tensor_parallel_plan(policy, size)
        if accelerator.num_processes % size:
            raise RunError(
                f"sampling.split={size} does not divide the number of ranks, {accelerator.num_processes}; choose a "
                "divisor of it, preferably at most the ranks of one machine"
            )
        self.group, _ = dist.new_subgroups(size)
        self.group_rank = dist.get_rank(self.group)
        self.first = dist.get_rank() - self.group_rank
        config = copy.deepcopy(policy.config)
        with torch.device("meta"):
            self.empty = AutoModelForCausalLM.from_config(config).eval()
        self.empty.generation_config = policy.generation_config
        for name, style in self.plan.items():
            if style != COLWISE:
                self.empty.get_submodule(name).register_forward_hook(self._sum if style == ROWWISE else self._gather)

    def generate(self, decode: Callable[..., list[list[Response]]], request: GenerationRequest) -> list[list[Response]]:
        """Return the responses to this rank's request (collective: every rank of the group must call it).

        `decode(policy, request, agree=…)` generates for the whole group. Every token is the first rank's draw, so that
        all ranks stop at the same token even if their logits differ by rounding.
        """
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, (list(request.prompts), list(request.query_ids)), group=self.group)
        group_request = replace(
            request,
            prompts=[prompt for prompts, _ in parts for prompt in prompts],
            query_ids=[query for _, query_ids in parts for query in query_ids],
        )
        with self.sharded_policy() as policy:
            responses = decode(policy, group_request, agree=self._agree)
        # All use the first rank's responses, because log-probabilities differ by rounding too.
        shared = [responses]
        dist.broadcast_object_list(shared, src=self.first, group=self.group)
        start = sum(len(prompts) for prompts, _ in parts[: self.group_rank])
        return shared[0][start : start + len(request.prompts)]

    @contextmanager
    def sharded_policy(self) -> Iterator[PreTrainedModel]:
        """Build the policy from this rank's shards, in the compute dtype (collective: every rank must call it)."""
        dtype = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32
        for shard in self.policy.modules():
            if isinstance(shard, FSDPModule):
                shard.reshard()  # a forward pass may have left some weights gathered
        try:
            for name, weight in self.policy.named_parameters(remove_duplicate=False):
                owner, _, leaf = name.rpartition(".")
                self._put(owner, leaf, self._shard(owner, leaf, self._whole(weight, dtype)))
            for name, buffer in self.policy.named_buffers():
                owner, _, leaf = name.rpartition(".")
                setattr(self.empty.get_submodule(owner), leaf, buffer)
            yield self.empty
        finally:
            self.empty.to("meta")

    def _put(self, owner: str, leaf: str, shard: torch.Tensor) -> None:
        setattr(self.empty.get_submodule(owner), leaf, torch.nn.Parameter(shard, requires_grad=False))

    def _whole(self, weight: torch.nn.Parameter, dtype: torch.dtype) -> torch.Tensor:
        if sharding_of(self.accelerator).kind == "zero3":
            from deepspeed.runtime.zero import GatheredParameters

            with GatheredParameters([weight]):
                return weight.detach().to(dtype, copy=True)
        low = weight.detach().to(dtype)
        return low.full_tensor() if isinstance(low, DTensor) else low

    def _shard(self, owner: str, leaf: str, whole: torch.Tensor) -> torch.Tensor:
        """Return this rank's shard of a weight or bias, padded with zeros if the rows do not divide evenly."""
        style = self.plan.get(owner)
        if style is None:
            return whole.clone()
        if style == ROWWISE:
            if leaf == "bias":  # the sum over ranks must contain it once
                return whole.clone() if self.group_rank == 0 else torch.zeros_like(whole)
            return whole.chunk(self.size, 1)[self.group_rank].contiguous()
        rows = -(-len(whole) // self.size)
        mine = whole[self.group_rank * rows : (self.group_rank + 1) * rows]
        return torch.cat([mine, mine.new_zeros(rows - len(mine), *mine.shape[1:])])

    def _sum(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.contiguous()
        dist.all_reduce(output, group=self.group)
        return output

    def _gather(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        shards = [torch.empty_like(output) for _ in range(self.size)]
        dist.all_gather(shards, output.contiguous(), group=self.group)
        return torch.cat(shards, -1)[..., : self.empty.config.vocab_size]

    def _agree(self, tokens: torch.Tensor) -> torch.Tensor:
        dist.broadcast(tokens, src=self.first, group=self.group)
        return tokens


def tensor_parallel_plan(policy: PreTrainedModel, size: int) -> dict[str, str]:
    """Return {layer name: transformers' sharding style}, without the layers that stay whole.

    Raises RunError if the model's class has no plan, if the plan uses other styles, or if `size` does not divide the
    numbers of heads or the MLP's size.
    """
    config = policy.config
    styles = {f"{policy.base_model_prefix}.{name}": style for name, style in (config.base_model_tp_plan or {}).items()}
    styles |= head_parallel_plan(policy)
    if ROWWISE not in styles.values() or not {COLWISE, ROWWISE, GATHERED, REPLICATED}.issuperset(styles.values()):
        raise RunError(f"sampling.split={size}: a {config.model_type} model cannot be sharded for decoding; use 1")
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(config, name) % size:
            raise RunError(
                f"sampling.split={size} does not divide this model's {name}, {getattr(config, name)}; choose another"
            )
    return {
        layer: style
        for layer, _ in policy.named_modules()
        for pattern, style in styles.items()
        if style != REPLICATED and fnmatch(layer, pattern)
    }
