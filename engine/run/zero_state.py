"""Read and write the weights and moments of DeepSpeed's ZeRO-2 and ZeRO-3 by parameter name.

ZeRO concatenates all weights and splits the result into equal shards, so a shard is not a slice of one weight. For
writing, the weights and their moments are gathered one after another, and rank r of n keeps every n-th of them in host
memory. For reading, each rank reads all of them, one at a time, and keeps its shard.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from engine.compat import is_on_this_rank, link_moments, update_computed_weights

# The key with which DeepSpeed's functions select the weight itself instead of one of its moments.
WEIGHT = None


def named_tensors(engine: Any) -> dict[str, Any]:
    """Return this rank's share of the trained weights (float32, CPU), with their moments and the buffers (collective).

    There are no moments before the first step. The optimiser must be torch's AdamW, with the same number of steps for
    all weights.
    """
    from deepspeed.utils import safe_get_full_optimizer_state

    names = {weight: name for name, weight in engine.module.named_parameters() if weight.requires_grad}
    state = engine.optimizer.optimizer.state.get(_flat(engine)[0], {})
    steps = {key: value.cpu() for key, value in state.items() if not value.ndim}
    keys = [WEIGHT, *(key for key in state if key not in steps)]
    if state:
        _link(engine)
    weights, moments = _buffers(engine), {}
    for at, (weight, name) in enumerate(names.items()):
        full = {key: safe_get_full_optimizer_state(weight, key) for key in keys}
        if at % dist.get_world_size() == dist.get_rank():
            kept = {key: value.cpu() for key, value in full.items()}
            weights[name] = kept.pop(WEIGHT)
            moments[name] = kept | steps
    if not state:
        return {"model": weights}
    groups = [
        settings | {"params": [names[weight] for weight in group]}
        for settings, group in zip(engine.optimizer.param_groups, _groups(engine), strict=True)
    ]
    return {"model": weights, "optimizer": {"state": moments, "param_groups": groups}}


class LazyTensors:
    """The full tensors of a checkpoint by key; each is read on access."""

    def __init__(self, reader: dcp.FileSystemReader):
        metadata, self.reader = reader.read_metadata(), reader
        patched: Any = reader
        patched.read_metadata = lambda *_, **__: metadata  # otherwise it is read again for every tensor
        self.described: dict[str, Any] = metadata.state_dict_metadata

    def __getitem__(self, key: str) -> torch.Tensor:
        about = self.described[key]
        room = {key: torch.empty(about.size, dtype=about.properties.dtype)}
        dcp.load(room, storage_reader=self.reader, no_dist=True)
        return room[key]


def read(folder: Path, engine: Any) -> None:
    """Load a checkpoint that was written under any sharding into a DeepSpeed engine (collective)."""
    written = weights = LazyTensors(dcp.FileSystemReader(folder))
    prefix = "model."
    if not any(key.startswith(prefix) for key in written.described):
        weights, prefix = LazyTensors(dcp.HuggingFaceStorageReader(str(folder.parent))), ""
    names = {name: weight for name, weight in engine.module.named_parameters() if weight.requires_grad}
    first = f"optimizer.state.{next(iter(names))}."
    keys = [key.removeprefix(first) for key in written.described if key.startswith(first)]
    steps = {key: written[first + key] for key in keys if not written.described[first + key].size}
    moments = [key for key in keys if key not in steps]
    if _is_zero3(engine):
        engine.optimizer.checkpoint_event_prologue()
    if keys:
        _allocate_moments(engine, moments, steps)
    for name, weight in names.items():
        if not is_on_this_rank(weight):
            continue
        _put(weight, WEIGHT, weights[prefix + name])
        for key in moments:
            _put(weight, key, written[f"optimizer.state.{name}.{key}"])
    for name, buffer in _buffers(engine).items():
        buffer.copy_(weights[prefix + name])
    # Update the copies used in computation, which may have another dtype, from the float32 weights.
    if _is_zero3(engine):
        for group in range(len(_flat(engine))):
            update_computed_weights(engine.optimizer, group)
        engine.optimizer.checkpoint_event_epilogue()
    else:
        engine.optimizer.update_lp_params()


def _is_zero3(engine: Any) -> bool:
    return engine.zero_optimization_stage() == 3


def _flat(engine: Any) -> list[torch.Tensor]:
    """Return this rank's concatenated float32 weights, as DeepSpeed's optimiser stores them."""
    optimizer = engine.optimizer
    return optimizer.fp32_partitioned_groups_flat if _is_zero3(engine) else optimizer.single_partition_of_fp32_groups


def _groups(engine: Any) -> list[list[torch.nn.Parameter]]:
    """Return the weights of each parameter group; ZeRO-3 has split the groups into subgroups."""
    optimizer = engine.optimizer
    if not _is_zero3(engine):
        return optimizer.bit16_groups
    groups: list[list[torch.nn.Parameter]] = [[] for _ in optimizer.param_groups]
    for at, weights in enumerate(optimizer.fp16_groups):
        groups[optimizer.sub_group_to_group_id[at]] += weights
    return groups


def _buffers(engine: Any) -> dict[str, torch.Tensor]:
    stored = engine.module.state_dict()
    return {name: buffer for name, buffer in engine.module.named_buffers() if name in stored}


def _allocate_moments(engine: Any, moments: list[str], steps: dict[str, torch.Tensor]) -> None:
    """Allocate the optimiser's moments as a first step would."""
    inner = engine.optimizer.optimizer
    for flat in _flat(engine):
        on = flat.device if inner.defaults["fused"] or inner.defaults["capturable"] else "cpu"
        made = {key: step.to(on, copy=True) for key, step in steps.items()}
        inner.state[flat] = made | {key: torch.zeros_like(flat) for key in moments}
    _link(engine)


def _link(engine: Any) -> None:
    if not _is_zero3(engine):
        link_moments(engine.optimizer)


def _put(weight: Any, key: str | None, value: torch.Tensor) -> None:
    """Store this rank's shard of a full weight or moment."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if not hasattr(weight, "ds_id"):
        safe_set_full_optimizer_state(weight, value, key)
        return
    numbers, processes = weight.ds_tensor.numel(), dist.get_world_size()
    padded = torch.nn.functional.pad(value.flatten(), (0, numbers * processes - value.numel()))
    safe_set_local_optimizer_state(weight, padded.chunk(processes)[dist.get_rank()], key)
