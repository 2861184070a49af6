"""Run a stage and map its end to an exit code: 2 and one line for a user's error, 128 + n for signal n."""

import errno
import logging
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from datasets import disable_progress_bars
from transformers.utils import logging as transformers_logging

from chatml import RecordError
from config import RecipeError
from config.schema import Recipe
from engine.dist.devices import out_of_memory
from engine.dist.ranks import is_main_process, launched_ranks, reserve_port
from engine.errors import AlreadyFinishedError
from engine.run import rank_logs

# Errors of failed writes: disk full, quota reached, read-only, not permitted, file too large, disk broken.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)
# Messages of gloo and NCCL after another rank has died.
LOST_RANK_MESSAGE = re.compile(
    "Connection (closed|reset) by peer|Broken pipe|remote process exited|NCCL communicator was aborted"
)
# How long other ranks wait before they print an error, so that rank 0 reports it first.
REPORT_DELAY_SECONDS = 2.0


def run(stage: Callable[[Any], None], recipe: Any) -> None:
    """Call `stage(recipe)` and exit. A run that is already finished exits with 0, a user's error with 2 and one line.

    SIGTERM exits with 143 (with several ranks, it kills the process), SIGINT with 130; a loop that can save first does
    so (engine/run/interruption.py). An error on all ranks is reported by rank 0, an error on one rank by that rank.
    With several ranks each has a log file.
    """
    if launched_ranks() > 1 and isinstance(recipe, Recipe) and hasattr(recipe, "run"):
        rank_logs.open_rank_log(Path(recipe.run.dir))
    # With several ranks this one may be waiting in C++, where Python's signal handlers do not run.
    signal.signal(signal.SIGTERM, signal.SIG_DFL if launched_ranks() > 1 else lambda number, _: leave(128 + number))
    # peft still uses a name that transformers has deprecated.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # It would warn at each checkpoint that tied weights are stored once.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    # Otherwise DeepSpeed, if it is installed, prints that there is no GPU.
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    disable_progress_bars()
    transformers_logging.disable_progress_bar()  # one bar per weight file would hide the stage's own progress line
    try:
        reserve_port()
        stage(recipe)
    except AlreadyFinishedError as finished:
        if is_main_process():
            print(finished)
    except (RecipeError, RecordError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        if is_main_process():
            print("interrupted; the same command continues from the last checkpoint", file=sys.stderr)
        leave(130)
    except (RuntimeError, MemoryError) as error:
        if out_of_memory(error):
            advice = recipe.memory_advice() if isinstance(recipe, Recipe) else "free some"
            fail(f"out of memory; {advice}. The last checkpoint is intact")
        if launched_ranks() > 1 and LOST_RANK_MESSAGE.search(str(error)):
            time.sleep(REPORT_DELAY_SECONDS)  # usually the launcher ends this process first
            fail("another process of this run has ended; the same command continues from the last checkpoint", code=1)
        crash()
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            crash()
        where = error.filename or "a file of the run"
        fail(
            f"{where} cannot be written ({error.strerror}); make room or fix its permissions, then the "
            "same command continues from the last checkpoint"
        )
    except Exception:
        crash()


def fail(message: str, code: int = 2) -> NoReturn:
    """Print an error and exit: rank 0 immediately, others after a delay, if the launcher has not ended them by then."""
    if not is_main_process():
        time.sleep(REPORT_DELAY_SECONDS)
    rank_logs.print_on_console(f"error: {message}")
    leave(code)


def crash() -> None:
    """Print the traceback of an unexpected error and exit. Call it in an `except` block."""
    if launched_ranks() == 1:
        raise
    rank_logs.print_on_console(traceback.format_exc())
    leave(1)


def leave(code: int) -> NoReturn:
    """Exit; with several ranks without cleanup, since threads of the process group may wait for other ranks forever."""
    sys.stdout.flush()
    sys.stderr.flush()
    if launched_ranks() > 1:
        os._exit(code)
    sys.exit(code)
