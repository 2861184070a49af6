"""How a stage leaves: the person's mistakes end in one line and exit code 2, an interruption in its signal's code."""

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
from engine.dist.ranks import hold_port, is_main_process, launched_ranks
from engine.errors import AlreadyFinishedError
from engine.run import rank_logs

# What a disk says when it takes no more: full, quota reached, read-only, not permitted, too large, broken.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)
# What gloo and NCCL say when a process they wait for is gone.
LOST = re.compile("Connection (closed|reset) by peer|Broken pipe|remote process exited|NCCL communicator was aborted")
# Seconds that a process other than the first waits before it speaks.
PATIENCE = 2.0


def run(stage: Callable[[Any], None], recipe: Any) -> None:
    """Call `stage(recipe)`; a finished run says so and exits 0, a mistake is one line on stderr and exits 2.

    SIGTERM leaves with 143 (one process of several ends as if it had no handler), SIGINT with 130; a loop that can
    save first does so (engine/run/interruption.py). Of several processes that fail alike the first one speaks, and
    one that fails alone does; each has its log.
    """
    if launched_ranks() > 1 and isinstance(recipe, Recipe):
        rank_logs.open_rank_log(Path(recipe.run.dir))
    # One process of several may be waiting for the others in C++, where no handler of Python's gets its turn.
    signal.signal(signal.SIGTERM, signal.SIG_DFL if launched_ranks() > 1 else lambda number, _: leave(128 + number))
    # peft still asks transformers by a name that transformers has deprecated.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # At each checkpoint it would say that tied weights are stored once.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    # DeepSpeed, where it is installed, says on standard output that there is no GPU, unless told.
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    disable_progress_bars()
    transformers_logging.disable_progress_bar()  # a bar for every file of weights would bury the stage's own line
    try:
        hold_port()
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
        if launched_ranks() > 1 and LOST.search(str(error)):
            time.sleep(PATIENCE)  # most often the launcher ends this process within it
            fail("another process of this run has ended; the same command continues from the last checkpoint", code=1)
        crash()
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            crash()
        where = error.filename or "a file of the run"
        fail(f"{where} cannot be written ({error.strerror}); make room or see to its permissions, then the "
             "same command continues from the last checkpoint")  # fmt: skip
    except Exception:
        crash()


def fail(message: str, code: int = 2) -> NoReturn:
    """Say what was wrong and leave; the first process at once, another only if the launcher lets it live."""
    if not is_main_process():
        time.sleep(PATIENCE)
    rank_logs.print_on_console(f"error: {message}")
    leave(code)


def crash() -> None:
    """What nobody foresaw, within an `except`: Python's own traceback."""
    if launched_ranks() == 1:
        raise
    rank_logs.print_on_console(traceback.format_exc())
    leave(1)


def leave(code: int) -> NoReturn:
    """Exit; one process of several without more ado, since the threads of its group may wait for the others forever."""
    sys.stdout.flush()
    sys.stderr.flush()
    if launched_ranks() > 1:
        os._exit(code)
    sys.exit(code)


def out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: on a GPU, in torch's CPU allocator, or in Python."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)
