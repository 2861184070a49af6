"""How a stage ends: a user's error is one line and exit code 2, an interruption leaves with its signal's code."""

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
from engine.dist.ranks import hold_port, is_main_process, launched_ranks
from engine.errors import AlreadyFinishedError
from engine.run import rank_logs

# Errors of a disk that cannot be written: full, quota reached, read-only, not permitted, file too large, broken.
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.EIO)
# Messages of gloo and NCCL when a rank they wait for is gone.
LOST = re.compile("Connection (closed|reset) by peer|Broken pipe|remote process exited|NCCL communicator was aborted")
# How long other ranks let rank 0 report first before they print an error, in seconds.
REPORT_DELAY_SECONDS = 2.0


def run(stage: Callable[[Any], None], recipe: Any) -> None:
    """Call `stage(recipe)`. A run that is finished already exits with 0, a user's error is one line on stderr and 2.

    SIGTERM leaves with 143 (with several ranks, as if there were no handler), SIGINT with 130; a loop that can save
    first does so (engine/run/interruption.py). Where all ranks fail alike, rank 0 reports the error; a rank that fails
    alone reports its own. Each rank has a log.
    """
    if launched_ranks() > 1 and isinstance(recipe, Recipe):
        rank_logs.open_rank_log(Path(recipe.run.dir))
    # With several ranks this one may be waiting for others in C++, where Python's handlers do not run.
    signal.signal(signal.SIGTERM, signal.SIG_DFL if launched_ranks() > 1 else lambda number, _: leave(128 + number))
    # peft still asks transformers by a name that transformers has deprecated.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # It would report at each checkpoint that tied weights are stored once.
    logging.getLogger("accelerate.utils.other").setLevel(logging.ERROR)
    # Without it DeepSpeed, where it is installed, prints that there is no GPU.
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
            time.sleep(REPORT_DELAY_SECONDS)  # the launcher usually ends this process before it is over
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
    """Print the error and leave: rank 0 at once, another only if the launcher has not ended it by then."""
    if not is_main_process():
        time.sleep(REPORT_DELAY_SECONDS)
    rank_logs.print_on_console(f"error: {message}")
    leave(code)


def crash() -> None:
    """Print the traceback of an unexpected error and leave; to be called in an `except` block."""
    if launched_ranks() == 1:
        raise
    rank_logs.print_on_console(traceback.format_exc())
    leave(1)


def leave(code: int) -> NoReturn:
    """Exit; with several ranks at once, since threads of the process group may wait for other ranks forever."""
    sys.stdout.flush()
    sys.stderr.flush()
    if launched_ranks() > 1:
        os._exit(code)
    sys.exit(code)
