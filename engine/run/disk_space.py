"""The disk space that a run will need, compared with what is free before its first step."""

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
# A disk with less than this is full; what a failed writer has left still lies there.
FULL_BYTES = 1 << 24
# How torch's writer reports a write that failed, for whatever reason.
TORCH_WRITER = ("inline_container", "PytorchStreamWriter")


@dataclass(frozen=True)
class DiskNeeds:
    """Bytes of one checkpoint and of the finished models; at least these."""

    checkpoint: int
    model: int


def disk_needs(trained: Iterable[tuple[torch.nn.Module, Any]], merged: bool = False) -> DiskNeeds:
    """Return what models and their optimisers take: trained weights, and Adam's moments where it is torch's.

    `merged`: whether frozen weights are written with the finished model.
    """
    checkpoint = model_bytes = 0
    for model, optimizer in trained:
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        adam = isinstance(inner, torch.optim.Adam)  # AdamW as well
        weights = list(model.parameters())
        own = WEIGHT_BYTES * sum(map(_numbers, (weight for weight in weights if weight.requires_grad)))
        checkpoint += own * (1 + ADAM_MOMENTS * adam)
        model_bytes += WEIGHT_BYTES * sum(map(_numbers, weights)) if merged else own
    return DiskNeeds(checkpoint, model_bytes)


def check_disk(needs: DiskNeeds, folder: Path, here: Path, resumes: bool) -> None:
    """Raise RunError where the next checkpoint, or the finished model, cannot fit.

    `folder` is the run's, `here` where checkpoints are written first (the same without run.local_dir). A run that
    resumes has room from the checkpoint that the next one replaces.
    """
    in_folder = max(needs.checkpoint, needs.model) if resumes else needs.checkpoint + needs.model
    what = "the next checkpoint or the finished model takes" if resumes else "a checkpoint and the finished model take"
    another = "name a folder on another disk as {}"
    # Under another run.dir alone it would begin again.
    way_out = f"move {folder} to another disk and name it as run.dir" if resumes else another.format("run.dir")
    _compare(folder, "run.dir", in_folder, what, way_out)
    if here != folder:
        _compare(here, "run.local_dir", needs.checkpoint, "a checkpoint takes", another.format("run.local_dir"))


def why_not_written(error: Exception, path: Path, needs: DiskNeeds | None) -> str:
    """Return why something could not be written, in one line; torch's own names its source file and not the disk."""
    torchs = any(name in str(error) for name in TORCH_WRITER)
    if not torchs and getattr(error, "errno", None) != errno.ENOSPC:
        return first_line(error)
    free = free_bytes(path)
    reason = first_line(error)
    if torchs:
        reason = os.strerror(errno.ENOSPC) if free is not None and free < FULL_BYTES else "torch's writer failed"
    about = f"; a checkpoint takes about {size(needs.checkpoint)}" if needs and needs.checkpoint else ""
    return f"{reason}{about}"


def free_bytes(path: Path) -> int | None:
    """Return the free space of the disk that a path is on, or will be; None where the file system does not tell."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    usage = shutil.disk_usage(there)
    return usage.free if usage.total else None


def size(count: float) -> str:
    """Return bytes in words: 1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.1f} {unit}"


def _compare(place: Path, key: str, needed: int, what: str, way_out: str) -> None:
    free = free_bytes(place)
    if free is not None and free < needed:
        raise RunError(
            f"{key}: {what} about {size(needed)}, and {size(free)} are free for {place}; make room, or {way_out}"
        )


def _numbers(weight: torch.nn.Parameter) -> int:
    """Return how many numbers a weight has over all ranks; ZeRO-3 leaves empty ones behind."""
    return getattr(weight, "ds_numel", weight.numel())
