"""What training needs to go on where it was, written so that any number of processes reads it, however models lie.

torch's distributed checkpoint holds a model and its optimiser by parameter name: a process writes the pieces that it
has and reads those that it needs. Beside it stand small things that all processes share, and each one's random
generators.
"""

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from accelerate.utils import extract_model_from_parallel
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from engine.dist.sharding import Sharding
from engine.run import zero_state

# Name -> a model and its optimiser.
Trained = Mapping[str, tuple[torch.nn.Module, torch.optim.Optimizer]]
WEIGHTS, SMALL = "weights", "state.pt"


def save(folder: Path, trained: Trained, state: Sequence[Any], now: Sharding) -> None:
    """Write all of it, by all processes together. Raises what the first failing writer raised."""
    for name, (model, optimizer) in trained.items():
        write(folder / name / WEIGHTS, model, optimizer, now)
    torch.save(_generators(), folder / f"random-{_rank()}.pt")
    if _rank() == 0:
        torch.save([item.state_dict() for item in state], folder / SMALL)


def load(folder: Path, trained: Trained, state: Sequence[Any], now: Sharding) -> None:
    """Read it back, in place. A process that was not there when it was written keeps its own random generators."""
    for name, (model, optimizer) in trained.items():
        read(folder / name / WEIGHTS, model, optimizer, now)
    for item, saved in zip(state, torch.load(folder / SMALL), strict=True):
        item.load_state_dict(saved)
    generators = folder / f"random-{_rank()}.pt"
    if generators.exists():
        _set_generators(torch.load(generators, weights_only=False))


def write(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, now: Sharding, *, weights: bool = True
) -> None:
    """One model and its optimiser; without its `weights`, where they stand in safetensors files beside the folder."""
    with _checkpointing():
        held = zero_state.held(model) if now.is_deepspeed else _held(model, optimizer, new=False)
        if not weights:
            del held["model"]
        dcp.save(held, checkpoint_id=folder)


def read(folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, now: Sharding) -> None:
    """What `write` has written, by processes of any number and kind."""
    with _checkpointing():
        if now.is_deepspeed:
            zero_state.read(folder, model)
            return
        written = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
        stepped = any(key.startswith("optimizer.state.") for key in written)
        held = _held(model, optimizer, new=stepped)
        if not any(key.startswith("model.") for key in written):
            dcp.load(held.pop("model"), storage_reader=dcp.HuggingFaceStorageReader(folder.parent))
        dcp.load(held, checkpoint_id=folder)
        if stepped:
            set_optimizer_state_dict(model, optimizer, held["optimizer"])


@contextmanager
def _checkpointing() -> Iterator[None]:
    """What a writer or reader raised, as it was raised; and no warning that there is one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        try:
            yield
        except CheckpointException as failed:
            raise next(iter(failed.failures.values()))[0] from None


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _held(model: torch.nn.Module, optimizer: torch.optim.Optimizer, new: bool) -> dict[str, Any]:
    """A model's and its optimiser's own tensors by parameter name; of one that has not stepped nothing.

    `new` makes room for what a step would leave. (torch's function does that by a step: a saving run must not take it.)
    """
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    stored = model.state_dict()  # of FSDP2's weights the pieces, also where a forward pass has left them whole
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    names += [name for name, _ in model.named_buffers() if name in stored]
    held: dict[str, Any] = {"model": {name: stored[name] for name in names}}
    if new or optimizer.state:
        held["optimizer"] = get_optimizer_state_dict(model, optimizer)
    return held


def _generators() -> dict[str, Any]:
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": numpy.random.get_state(), "torch": torch.get_rng_state(), "gpu": gpu}


def _set_generators(saved: dict[str, Any]) -> None:
    random.setstate(saved["python"])
    numpy.random.set_state(saved["numpy"])
    torch.set_rng_state(saved["torch"])
    if len(saved["gpu"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved["gpu"])
