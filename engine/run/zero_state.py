"""What DeepSpeed's ZeRO-2 and ZeRO-3 hold of a model and its optimiser, by parameter name, as the other kinds have it.

ZeRO cuts weights laid end to end, so a piece is no rows of one. To be written, weights are put together one after the
other, with their moments, and of n processes each keeps every n-th in its host memory. To be read, each process takes
all of them, one at a time, and keeps its piece.
"""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

# Among the keys of a weight's moments, the weight itself; DeepSpeed's own functions have it so.
WEIGHT = None


def held(engine: Any) -> dict[str, Any]:
    """This process's share of the weights that are trained, in float32, and of their moments; all processes together.

    Of an optimiser that has not stepped nothing. It is torch's AdamW, of which all weights have made as many steps.
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
        whole = {key: safe_get_full_optimizer_state(weight, key) for key in keys}
        if at % dist.get_world_size() == dist.get_rank():
            kept = {key: value.cpu() for key, value in whole.items()}
            weights[name] = kept.pop(WEIGHT)
            moments[name] = kept | steps
    if not state:
        return {"model": weights}
    groups = [
        settings | {"params": [names[weight] for weight in group]}
        for settings, group in zip(engine.optimizer.param_groups, _groups(engine), strict=True)
    ]
    return {"model": weights, "optimizer": {"state": moments, "param_groups": groups}}


class Written:
    """Whole tensors of a checkpoint by key, read when they are asked for."""

    def __init__(self, reader: dcp.FileSystemReader):
        metadata = reader.read_metadata()
        reader.read_metadata = lambda *_, **__: metadata  # else once for every tensor
        self.reader, self.described = reader, metadata.state_dict_metadata

    def __getitem__(self, key: str) -> torch.Tensor:
        about = self.described[key]
        room = {key: torch.empty(about.size, dtype=about.properties.dtype)}
        dcp.load(room, storage_reader=self.reader, no_dist=True)
        return room[key]


def read(folder: Path, engine: Any) -> None:
    """Take over what processes of any kind have written; by all processes together."""
    written = weights = Written(dcp.FileSystemReader(folder))
    prefix = "model."
    if not any(key.startswith(prefix) for key in written.described):
        weights, prefix = Written(dcp.HuggingFaceStorageReader(folder.parent)), ""
    names = {name: weight for name, weight in engine.module.named_parameters() if weight.requires_grad}
    first = f"optimizer.state.{next(iter(names))}."
    keys = [key.removeprefix(first) for key in written.described if key.startswith(first)]
    steps = {key: written[first + key] for key in keys if not written.described[first + key].size}
    moments = [key for key in keys if key not in steps]
    if _is_three(engine):
        engine.optimizer.checkpoint_event_prologue()
    if keys:
        _make_room(engine, moments, steps)
    for name, weight in names.items():
        if getattr(weight, "_hp_mapping", weight) is None:
            continue  # under ZeRO-2, where others have all of it
        _put(weight, WEIGHT, weights[prefix + name])
        for key in moments:
            _put(weight, key, written[f"optimizer.state.{name}.{key}"])
    for name, buffer in _buffers(engine).items():
        buffer.copy_(weights[prefix + name])
    # What is computed with, and may be of another type, follows what is trained.
    if _is_three(engine):
        for group in range(len(_flat(engine))):
            engine.optimizer._reassign_or_swap_out_partitioned_parameters(group)
        engine.optimizer.checkpoint_event_epilogue()
    else:
        engine.optimizer.update_lp_params()


def _is_three(engine: Any) -> bool:
    return engine.zero_optimization_stage() == 3


def _flat(engine: Any) -> list[torch.Tensor]:
    """This process's float32 weights, end to end, as DeepSpeed's optimiser knows them."""
    optimizer = engine.optimizer
    return optimizer.fp32_partitioned_groups_flat if _is_three(engine) else optimizer.single_partition_of_fp32_groups


def _groups(engine: Any) -> list[list[torch.nn.Parameter]]:
    """The weights of each group of the optimiser, which ZeRO-3 has divided further."""
    optimizer = engine.optimizer
    if not _is_three(engine):
        return optimizer.bit16_groups
    groups: list[list[torch.nn.Parameter]] = [[] for _ in optimizer.param_groups]
    for at, weights in enumerate(optimizer.fp16_groups):
        groups[optimizer.sub_group_to_group_id[at]] += weights
    return groups


def _buffers(engine: Any) -> dict[str, torch.Tensor]:
    stored = engine.module.state_dict()
    return {name: buffer for name, buffer in engine.module.named_buffers() if name in stored}


def _make_room(engine: Any, moments: list[str], steps: dict[str, torch.Tensor]) -> None:
    """Let the optimiser have stepped."""
    inner = engine.optimizer.optimizer
    for flat in _flat(engine):
        on = flat.device if inner.defaults["fused"] or inner.defaults["capturable"] else "cpu"
        made = {key: step.to(on, copy=True) for key, step in steps.items()}
        inner.state[flat] = made | {key: torch.zeros_like(flat) for key in moments}
    _link(engine)


def _link(engine: Any) -> None:
    """Let ZeRO-2's weights know their moments: after its first step those of its first group alone do."""
    if not _is_three(engine):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _put(weight: torch.nn.Parameter, key: str | None, value: torch.Tensor) -> None:
    """Keep this process's piece of a whole weight or moment."""
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if not hasattr(weight, "ds_id"):
        safe_set_full_optimizer_state(weight, value, key)
        return
    numbers, processes = weight.ds_tensor.numel(), dist.get_world_size()
    padded = torch.nn.functional.pad(value.flatten(), (0, numbers * processes - value.numel()))
    safe_set_local_optimizer_state(weight, padded.chunk(processes)[dist.get_rank()], key)
