"""How a stage leaves: the person's mistakes end in one line and exit code 2, an interruption in its signal's code."""

import errno
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from transformers.utils import logging as transformers_logging

from chatml import RecordError
from engine.run import logs
from engine.run.folder import AlreadyFinishedError
from recipes import RecipeError
from recipes.schema import Recipe

# What a disk says when it takes no more: full, quota reached, read-only, not permitted, too large, broken.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)


def run(stage: Callable[[Any], None], recipe: Any) -> None:
    """Call `stage(recipe)`; a finished run says so and exits 0, a mistake is one line on stderr and exits 2.

    SIGTERM leaves with 143, SIGINT with 130; a loop that can save first does so (engine/run/interruption.py).
    Of several processes each has its log in the run folder.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    with logs.kept(Path(recipe.run.dir)) if several else nullcontext():
        _run(stage, recipe)


def _run(stage: Callable[[Any], None], recipe: Any) -> None:
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    # peft still asks transformers by a name that transformers has deprecated.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # At each checkpoint it would say that tied weights are stored once.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    disable_progress_bars()
    transformers_logging.disable_progress_bar()  # a bar for every file of weights would bury the stage's own line
    try:
        stage(recipe)
    except AlreadyFinishedError as finished:
        print(finished)
    except (RecipeError, RecordError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        advice = recipe.memory_advice() if isinstance(recipe, Recipe) else "free some"
        print(f"error: out of memory; {advice}. The last checkpoint is intact", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = error.filename or "a file of the run"
        print(f"error: {where} cannot be written ({error.strerror}); make room or see to its permissions, then the "
              "same command continues from the last checkpoint", file=sys.stderr)  # fmt: skip
        sys.exit(2)


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: on a GPU, in torch's CPU allocator, or in Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
