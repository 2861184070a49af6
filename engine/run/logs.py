"""What each of several processes prints: logs/process-N.log of the run folder. The console shows the first one's.

Of the others it shows only what ends them.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import datetime
from pathlib import Path
from typing import TextIO


class Both:
    """A stream that writes to two; no terminal, so that no live line fills the log."""

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


@contextmanager
def kept(run: Path) -> Iterator[None]:
    """Within it this process, one of several, has a log."""
    rank, processes = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    path = run / "logs" / f"process-{rank}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("a", encoding="utf-8", buffering=1)
    except OSError:  # a run folder that cannot be written is the stage's to tell
        yield
        return
    with log:
        attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))  # how often a launcher has started all again
        start = f"{datetime.now():%Y-%m-%d %H:%M:%S} process {rank} of {processes}, pid {os.getpid()}"
        print(f"--- {start}{f', restart {attempt}' if attempt else ''}", file=log)
        streams = redirected(Both(sys.stdout, log), Both(sys.stderr, log)) if rank == 0 else _alone(log)
        with streams as console:
            try:
                yield
            except SystemExit as left:
                if left.code == 2 and rank:  # its one line stands in the log
                    print(f"process {rank}: {path.read_text(encoding='utf-8').splitlines()[-1]}", file=console)
                raise
            except Exception:
                traceback.print_exc(file=log)
                print(f"process {rank} of {processes}, whose log is {path}, ends by", file=console)
                raise


@contextmanager
def redirected(out: TextIO, error: TextIO) -> Iterator[TextIO]:
    """What Python prints goes to these streams; what is given back writes to the second."""
    with redirect_stdout(out), redirect_stderr(error):
        yield error


@contextmanager
def _alone(log: TextIO) -> Iterator[TextIO]:
    """Everything that this process prints goes to `log`, what C code prints as well; the console is given back."""
    sys.stdout.reconfigure(line_buffering=True)  # else a kill would lose the last lines
    sys.stderr.flush()
    before = [os.dup(descriptor) for descriptor in (1, 2)]
    console = os.fdopen(os.dup(2), "w", encoding="utf-8")
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    try:
        yield console
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, was in zip((1, 2), before, strict=True):
            os.dup2(was, descriptor)
            os.close(was)
        console.close()
