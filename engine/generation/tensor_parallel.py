"""A policy in pieces over a few neighbouring processes while it writes, for one that no device holds whole.

The processes of a team write all their queries together. Each has some heads of every layer and their KV cache, a part
of the MLP, and some rows of the output head, as transformers' plan for the model's class says (tensor parallelism:
Shoeybi et al. 2019, arXiv 1909.08053). Pieces are taken once a rollout, weight by weight, from what FSDP2, ZeRO-3 or
nobody has shared out, and are gone when the answers are there.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from engine.dist.sharding import sharding_of
from engine.errors import RunError
from engine.generation.sampling import Response

# transformers' names: a piece of the outputs; of the inputs; of outputs that all then see whole; and no pieces.
OUTPUTS, INPUTS, HEAD, WHOLE = "colwise", "rowwise", "colwise_gather_output", "replicated_with_grad_allreduce"


class Team:
    """The `size` neighbouring processes, by rank, that hold one policy together while it writes."""

    def __init__(self, policy: PreTrainedModel, size: int, accelerator: Accelerator):
        self.size, self.accelerator, self.policy = size, accelerator, policy
        self.plan = plan_of(policy, size)
        if accelerator.num_processes % size:
            raise RunError(
                f"sampling.split={size} does not divide the number of processes, {accelerator.num_processes}; a team "
                "has as many, best on one machine"
            )
        self.group, _ = dist.new_subgroups(size)
        self.place = dist.get_rank(self.group)
        self.first = dist.get_rank() - self.place
        config = copy.deepcopy(policy.config)
        with torch.device("meta"):
            self.empty = AutoModelForCausalLM.from_config(config).eval()
        self.empty.generation_config = policy.generation_config
        for name, style in self.plan.items():
            if style != OUTPUTS:
                self.empty.get_submodule(name).register_forward_hook(self._sum if style == INPUTS else self._gather)

    def write(
        self,
        sample: Callable[..., list[list[Response]]],
        prompts: Sequence[Sequence[int]],
        query_ids: Sequence[int],
    ) -> list[list[Response]]:
        """This process's answers of all that the team writes.

        What is drawn is the first process's at every token, so that all stop at the same one, whatever rounding does.
        """
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, (list(prompts), list(query_ids)), group=self.group)
        with self.taken() as policy:
            asked = [prompt for theirs, _ in parts for prompt in theirs]
            answers = sample(policy, asked, query_ids=[q for _, ids in parts for q in ids], agree=self._agree)
        told = [answers]
        dist.broadcast_object_list(told, src=self.first, group=self.group)
        start = sum(len(theirs) for theirs, _ in parts[: self.place])
        return told[0][start : start + len(prompts)]

    @contextmanager
    def taken(self) -> Iterator[PreTrainedModel]:
        """The policy of this process's pieces, in the type of the computation; all processes together."""
        dtype = torch.bfloat16 if self.accelerator.mixed_precision == "bf16" else torch.float32
        for shard in self.policy.modules():
            if isinstance(shard, FSDPModule):
                shard.reshard()  # a forward pass may have left some whole
        try:
            for name, weight in self.policy.named_parameters(remove_duplicate=False):
                owner, _, leaf = name.rpartition(".")
                self._put(owner, leaf, self._piece(owner, leaf, self._whole(weight, dtype)))
            for name, buffer in self.policy.named_buffers():
                owner, _, leaf = name.rpartition(".")
                self.empty.get_submodule(owner)._buffers[leaf] = buffer
            yield self.empty
        finally:
            self.empty.to("meta")

    def _put(self, owner: str, leaf: str, piece: torch.Tensor) -> None:
        self.empty.get_submodule(owner)._parameters[leaf] = torch.nn.Parameter(piece, requires_grad=False)

    def _whole(self, weight: torch.nn.Parameter, dtype: torch.dtype) -> torch.Tensor:
        if sharding_of(self.accelerator).kind == "zero3":
            from deepspeed.runtime.zero import GatheredParameters

            with GatheredParameters([weight]):
                return weight.detach().to(dtype, copy=True)
        weight = weight.detach().to(dtype)
        return weight.full_tensor() if isinstance(weight, DTensor) else weight

    def _piece(self, owner: str, leaf: str, whole: torch.Tensor) -> torch.Tensor:
        """What this process has of a weight or bias; of a head whose rows do not divide, the last piece has zeros."""
        style = self.plan.get(owner)
        if style is None:
            return whole.clone()
        if style == INPUTS:
            if leaf == "bias":  # added once
                return whole.clone() if self.place == 0 else torch.zeros_like(whole)
            return whole.chunk(self.size, 1)[self.place].contiguous()
        rows = -(-len(whole) // self.size)
        mine = whole[self.place * rows : (self.place + 1) * rows]
        return torch.cat([mine, mine.new_zeros(rows - len(mine), *mine.shape[1:])])

    def _sum(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.contiguous()
        dist.all_reduce(output, group=self.group)
        return output

    def _gather(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        pieces = [torch.empty_like(output) for _ in range(self.size)]
        dist.all_gather(pieces, output.contiguous(), group=self.group)
        return torch.cat(pieces, -1)[..., : self.empty.config.vocab_size]

    def _agree(self, tokens: torch.Tensor) -> torch.Tensor:
        dist.broadcast(tokens, src=self.first, group=self.group)
        return tokens


def plan_of(policy: PreTrainedModel, size: int) -> dict[str, str]:
    """Layers that are taken to pieces, by name, and transformers' name of the way.

    RunError if this model's class has no such plan, or one of other ways, or if its heads do not divide.
    """
    config = policy.config
    ways = {f"{policy.base_model_prefix}.{name}": way for name, way in (config.base_model_tp_plan or {}).items()}
    ways |= type(policy)._tp_plan or {}
    if INPUTS not in ways.values() or not {OUTPUTS, INPUTS, HEAD, WHOLE}.issuperset(ways.values()):
        raise RunError(f"sampling.split={size}: a {config.model_type} model cannot be taken to pieces here; use 1")
    for name in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(config, name) % size:
            raise RunError(
                f"sampling.split={size} does not divide this model's {name}, {getattr(config, name)}; choose another"
            )
    return {
        layer: way
        for layer, _ in policy.named_modules()
        for pattern, way in ways.items()
        if way != WHOLE and fnmatch(layer, pattern)
    }
