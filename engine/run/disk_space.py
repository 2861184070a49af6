"""Compare the disk space that a run will need with the free space, before its first step."""

import errno
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine.errors import RunError, first_line

WEIGHT_BYTES = 4  # trained weights, their moments and finished models are float32
ADAM_MOMENTS = 2
# A disk with less free space is full: a failed write still occupies some of it.
FULL_DISK_BYTES = 1 << 24
# Parts of the message with which torch's writer reports any failed write.
TORCH_WRITER_NAMES = ("inline_container", "PytorchStreamWriter")


@dataclass(frozen=True)
class DiskNeeds:
    """Lower bounds, in bytes, of the size of a checkpoint and of the finished models."""

    checkpoint: int
    model: int


def disk_needs(trained: Iterable[tuple[torch.nn.Module, Any]], merged: bool = False) -> DiskNeeds:
    """Return the space that (model, optimiser) pairs need: trained weights, and the moments of torch's Adam.

    With `merged` the finished model contains the frozen weights, too.
    """
    checkpoint = model_bytes = 0
    for model, optimizer in trained:
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        adam = isinstance(inner, torch.optim.Adam)  # AdamW as well
        weights = list(model.parameters())
        own = WEIGHT_BYTES * sum(map(_num_elements, (weight for weight in weights if weight.requires_grad)))
        checkpoint += own * (1 + ADAM_MOMENTS * adam)
        model_bytes += WEIGHT_BYTES * sum(map(_num_elements, weights)) if merged else own
    return DiskNeeds(checkpoint, model_bytes)


def check_disk(needs: DiskNeeds, folder: Path, write_folder: Path, resumes: bool) -> None:
    """Raise RunError if the next checkpoint or the finished model does not fit on the disk.

    `folder` is the run folder, `write_folder` the one that checkpoints are written to first (the same without
    run.local_dir). A run that resumes needs less: its next checkpoint replaces an old one.
    """
    in_folder = max(needs.checkpoint, needs.model) if resumes else needs.checkpoint + needs.model
    what = "the next checkpoint or the finished model takes" if resumes else "a checkpoint and the finished model take"
    another = "name a folder on another disk as {}"
    # With another run.dir alone the run would start over.
    way_out = f"move {folder} to another disk and name it as run.dir" if resumes else another.format("run.dir")
    _check_free(folder, "run.dir", in_folder, what, way_out)
    if write_folder != folder:
        _check_free(
            write_folder, "run.local_dir", needs.checkpoint, "a checkpoint takes", another.format("run.local_dir")
        )


def write_failure(error: Exception, path: Path, needs: DiskNeeds | None) -> str:
    """Return in one line why a write failed; torch's own message names its source file instead of the disk."""
    torchs = any(name in str(error) for name in TORCH_WRITER_NAMES)
    if not torchs and getattr(error, "errno", None) != errno.ENOSPC:
        return first_line(error)
    free = free_bytes(path)
    reason = first_line(error)
    if torchs:
        reason = os.strerror(errno.ENOSPC) if free is not None and free < FULL_DISK_BYTES else "torch's writer failed"
    about = f"; a checkpoint takes about {format_bytes(needs.checkpoint)}" if needs and needs.checkpoint else ""
    return f"{reason}{about}"


def free_bytes(path: Path) -> int | None:
    """Return the free space, in bytes, of the disk of a path (existing or not); None if it is unknown."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    usage = shutil.disk_usage(there)
    return usage.free if usage.total else None


def format_bytes(count: float) -> str:
    """Return bytes as text: 1536 → '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.1f} {unit}"


def _check_free(place: Path, key: str, needed: int, what: str, way_out: str) -> None:
    free = free_bytes(place)
    if free is not None and free < needed:
        raise RunError(
            f"{key}: {what} about {format_bytes(needed)}, and {place} has {format_bytes(free)} free; "
            f"make room, or {way_out}"
        )


def _num_elements(weight: torch.nn.Parameter) -> int:
    """Return a weight's number of elements over all ranks; ZeRO-3 replaces sharded weights by empty tensors."""
    return getattr(weight, "ds_numel", weight.numel())
