"""One log file per rank, logs/process-N.log in the run folder. The console shows only the output of rank 0.

Other ranks print only fatal errors on the console (`print_on_console`).
"""

import io
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TextIO, cast

# The console stream of a rank whose output is redirected to its log.
_redirected_consoles: list[TextIO] = []


class TeeStream:
    """A stream that writes to console and log. It is not a terminal, so that live lines do not fill the log."""

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
    """Redirect this rank's output to its log. Does nothing if the run folder cannot be written."""
    rank, processes = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    path = run / "logs" / f"process-{rank}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("a", encoding="utf-8", buffering=1)
    except OSError:
        return  # the stage will report it
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))  # number of restarts of all ranks by the launcher
    start = f"{datetime.now():%Y-%m-%d %H:%M:%S} process {rank} of {processes}, pid {os.getpid()}"
    print(f"--- {start}{f', restart {attempt}' if attempt else ''}", file=log)
    sys.stdout.flush()
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # otherwise a kill would lose the last lines
    if rank == 0:
        sys.stdout, sys.stderr = TeeStream(sys.stdout, log), TeeStream(sys.stderr, log)
        return
    _redirected_consoles.append(os.fdopen(os.dup(2), "w", encoding="utf-8", buffering=1))
    for descriptor in (1, 2):  # also redirects the output of C code
        os.dup2(log.fileno(), descriptor)


def print_on_console(text: str) -> None:
    """Print to standard error, and to the console if standard error is redirected."""
    for stream in (sys.stderr, *_redirected_consoles):
        print(text, file=stream)
