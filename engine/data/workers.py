"""Apply a function to many chunks, in order: in this process if that is quick, otherwise in worker processes.

Workers are spawned, not forked: when data is read, torch, tokenizers and accelerate may have started threads, and a
fork copies the locks that they hold but not the threads that would release them. Workers exit when the process that
started them exits or is killed. Results do not depend on the process that a chunk is processed in.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from config import RecipeError

# One process reads for all workers, so more workers would be idle. Each worker may have this many chunks in memory.
MAX_WORKERS, CHUNKS_A_WORKER = 16, 2


def map_in_order(
    work: Callable[..., Any], shared: tuple[Any, ...], chunks: Iterator[Any], worth_it: Callable[[], bool]
) -> Iterator[Any]:
    """Yield work(chunk, *shared) for every chunk, in worker processes once `worth_it()` returns True.

    `work` must be a module-level function whose arguments and results can be pickled. Raises what `work` raises, and
    RecipeError if a worker dies.
    """
    processes = min(len(os.sched_getaffinity(0)), MAX_WORKERS)
    for chunk in chunks:
        yield work(chunk, *shared)
        if processes > 1 and worth_it():
            break
    yield from _in_processes(processes, work, shared, chunks)


def _in_processes(
    processes: int, work: Callable[..., Any], shared: tuple[Any, ...], chunks: Iterator[Any]
) -> Iterator[Any]:
    first = next(chunks, None)
    if first is None:
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_start, initargs=(work, shared))
    waiting = deque([pool.submit(_work, first)])
    try:
        try:
            for chunk in chunks:
                waiting.append(pool.submit(_work, chunk))
                if len(waiting) > CHUNKS_A_WORKER * processes:
                    yield waiting.popleft().result()
        except RecipeError:
            for future in waiting:  # an error in an earlier chunk is raised first, as in one process
                future.result()
            raise
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise RecipeError(
            "a process that prepares data was killed, perhaps because memory ran out; run the command again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_work_here: Callable[[Any], Any]


def _start(work: Callable[..., Any], shared: tuple[Any, ...]) -> None:
    """Initialise a worker process."""
    global _work_here
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the other workers use the other cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the main process, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work_here = lambda chunk: work(chunk, *shared)  # noqa: E731


def _work(chunk: Any) -> Any:
    return _work_here(chunk)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker process
    parent.join()
    os._exit(1)
