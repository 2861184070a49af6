"""A log for each of several ranks: logs/process-N.log of the run folder. The console shows rank 0's output.

Of other ranks the console shows only the error that ends them (`print_on_console`).
"""

import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TextIO

# The console of a rank whose output goes to its log alone.
_hidden: list[TextIO] = []


class Both:
    """A stream that writes to console and log. It is no terminal, so that no live line fills the log."""

    def __init__(self, console: TextIO, log: TextIO):
        self.console, self.log = console, log

    def write(self, text: str) -> int:
        self.log.write(text)
        return self.console.write(text)

    def flush(self) -> None:
        self.log.flush()
        self.console.flush()

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.console.fileno()

    @property
    def encoding(self) -> str:
        return self.console.encoding


def open_rank_log(run: Path) -> None:
    """Send this rank's output to its log from now on; does nothing where the run folder cannot be written."""
    rank, processes = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    path = run / "logs" / f"process-{rank}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("a", encoding="utf-8", buffering=1)
    except OSError:
        return  # the stage will report it
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))  # how often a launcher has restarted all ranks
    start = f"{datetime.now():%Y-%m-%d %H:%M:%S} process {rank} of {processes}, pid {os.getpid()}"
    print(f"--- {start}{f', restart {attempt}' if attempt else ''}", file=log)
    sys.stdout.flush()
    sys.stdout.reconfigure(line_buffering=True)  # else a kill would lose the last lines
    if rank == 0:
        sys.stdout, sys.stderr = Both(sys.stdout, log), Both(sys.stderr, log)
        return
    _hidden.append(os.fdopen(os.dup(2), "w", encoding="utf-8", buffering=1))
    for descriptor in (1, 2):  # output of C code goes there as well
        os.dup2(log.fileno(), descriptor)


def print_on_console(text: str) -> None:
    """Print to standard error, and to the console wherever that goes."""
    for stream in (sys.stderr, *_hidden):
        print(text, file=stream)
