"""Save and load training state, so that any number of ranks can load it under any kind of sharding.

torch's distributed checkpoint stores a model and its optimiser by parameter name: each rank writes its own shards and
reads those that it needs. A checkpoint also contains the small state objects that are equal on all ranks, by name, and
the random generators of each rank.
"""

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate.utils import extract_model_from_parallel
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from engine.dist.sharding import Sharding
from engine.errors import RunError
from engine.run import zero_state

# Name -> (model, optimiser).
Trained = Mapping[str, tuple[torch.nn.Module, torch.optim.Optimizer]]
WEIGHTS, STATE = "weights", "state.pt"


class Stateful(Protocol):
    """A stage's object that is saved with its checkpoints."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def save(folder: Path, trained: Trained, state: Mapping[str, Stateful], sharding: Sharding) -> None:
    """Write models, optimisers, state and random generators to `folder` (collective).

    Raises the exception of the first rank that failed to write.
    """
    for name, (model, optimizer) in trained.items():
        write(folder / name / WEIGHTS, model, optimizer, sharding)
    torch.save(_generators(), folder / f"random-{_rank()}.pt")
    if _rank() == 0:
        torch.save({name: item.state_dict() for name, item in state.items()}, folder / STATE)


def load(folder: Path, trained: Trained, state: Mapping[str, Stateful], sharding: Sharding) -> None:
    """Load what `save` has written into the given objects (collective).

    A rank that did not exist when the checkpoint was written keeps its own random generators. Raises RunError if the
    names in the checkpoint's state differ from those of `state`.
    """
    saved = _read_state(folder, state)
    for name, (model, optimizer) in trained.items():
        read(folder / name / WEIGHTS, model, optimizer, sharding)
    for name, item in state.items():
        item.load_state_dict(saved[name])
    generators = folder / f"random-{_rank()}.pt"
    if generators.exists():
        _set_generators(torch.load(generators, weights_only=False))


def _read_state(folder: Path, state: Mapping[str, Stateful]) -> dict[str, dict[str, Any]]:
    """Return the saved state by name. Raises RunError if names are missing or unknown.

    Earlier versions stored a list without names. It is accepted if each item has the fields of the object at the same
    position.
    """
    saved = torch.load(folder / STATE)
    if isinstance(saved, list):
        if [part.keys() for part in saved] != [item.state_dict().keys() for item in state.values()]:
            raise RunError(
                f"{folder}: its state has no names and does not fit this run's {', '.join(state)}; finish the run with "
                "the version that started it, or name another run.dir"
            )
        return dict(zip(state, saved, strict=True))
    problems = [f"lacks {name}" for name in state if name not in saved]
    problems += [f"has {name}, which this run does not know" for name in saved if name not in state]
    if problems:
        raise RunError(
            f"{folder}: its state {' and '.join(problems)}; finish the run with the version that started it, or name "
            "another run.dir"
        )
    return saved


def write(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, sharding: Sharding, *, weights: bool = True
) -> None:
    """Write one model and its optimiser (collective).

    With `weights=False` only the optimiser is written: the model's weights are safetensors files in the parent folder.
    """
    with _checkpointing():
        if sharding.is_deepspeed:
            tensors = zero_state.named_tensors(model)
        else:
            tensors = _named_tensors(model, optimizer, new=False)
        if not weights:
            del tensors["model"]
        dcp.save(tensors, checkpoint_id=folder)


def read(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, sharding: Sharding) -> None:
    """Read what `write` has written, under any number of ranks and any sharding (collective)."""
    with _checkpointing():
        if sharding.is_deepspeed:
            zero_state.read(folder, model)
            return
        written = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        stepped = any(key.startswith("optimizer.state.") for key in written)
        tensors = _named_tensors(model, optimizer, new=stepped)
        if not any(key.startswith("model.") for key in written):
            dcp.load(tensors.pop("model"), storage_reader=dcp.HuggingFaceStorageReader(str(folder.parent)))
        dcp.load(tensors, checkpoint_id=folder)
        if stepped:
            set_optimizer_state_dict(model, optimizer, tensors["optimizer"])


def read_weights(folder: Path, model: torch.nn.Module) -> None:
    """Read the weights that `write` has written into an unsharded model, in one process and without an optimiser."""
    with _checkpointing():
        written = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        tensors = {"model": _named_weights(model)}
        if any(key.startswith("model.") for key in written):
            dcp.load(tensors, checkpoint_id=folder)
        else:
            dcp.load(tensors["model"], storage_reader=dcp.HuggingFaceStorageReader(str(folder.parent)))


@contextmanager
def _checkpointing() -> Iterator[None]:
    """Raise the original exception of the first failing rank; silence torch's warning about a single rank."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        try:
            yield
        except CheckpointException as failed:
            raise next(iter(failed.failures.values()))[0] from None


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _named_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer, new: bool) -> dict[str, Any]:
    """Return the trained weights, buffers and moments by parameter name. There are no moments before the first step.

    With `new` missing moments are allocated, so that they can be loaded. (torch's function allocates them by taking an
    optimiser step, so it must not be called while saving.)
    """
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    tensors: dict[str, Any] = {"model": _named_weights(model)}
    if new or optimizer.state:
        tensors["optimizer"] = get_optimizer_state_dict(model, optimizer)
    return tensors


def _named_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the trained weights and the buffers; they share memory with the model."""
    stored = model.state_dict()  # shards under FSDP2, even if a forward pass has left gathered weights
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    names += [name for name, _ in model.named_buffers() if name in stored]
    return {name: stored[name] for name in names}


def _generators() -> dict[str, Any]:
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": numpy.random.get_state(), "torch": torch.get_rng_state(), "gpu": gpu}


def _set_generators(saved: dict[str, Any]) -> None:
    random.setstate(saved["python"])
    numpy.random.set_state(saved["numpy"])
    torch.set_rng_state(saved["torch"])
    if len(saved["gpu"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["gpu"])
