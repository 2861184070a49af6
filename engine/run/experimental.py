"""Print a line for each experimental feature that a run uses (config/experimental.py)."""

import importlib.util
import os
import sys
from typing import Any

import torch

from config.experimental import Machine, notes
from engine.dist.ranks import is_main_process, launched_ranks
from engine.dist.sharding import requested_kind


def this_machine() -> Machine:
    """Return where this run takes place; works before the process group exists."""
    return Machine(
        gpu=torch.cuda.is_available(),
        ranks=launched_ranks(),
        hosts=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        sharding=requested_kind(),
        flash_attention=importlib.util.find_spec("flash_attn") is not None,
        system=sys.platform,
    )


def print_notes(recipe: Any) -> None:
    """Print the notes on stderr, on rank 0 only."""
    if is_main_process():
        for note in notes(recipe, this_machine()):
            print(note, file=sys.stderr, flush=True)
