"""One function over many chunks, in order: in this process as long as that is quick, else in several.

The several are spawned, not forked: by the time data is read, torch, tokenizers and accelerate may have started
threads, and a fork copies the locks they hold but not the threads that would release them. They end with the process
that started them, however it ends. Where a chunk is worked on changes nothing of what comes out.
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

MOST = 16  # one process reads for all the others
WAITING = 2  # chunks for each of them in memory


def in_order(
    work: Callable[..., Any], shared: tuple[Any, ...], chunks: Iterator[Any], worth_it: Callable[[], bool]
) -> Iterator[Any]:
    """work(chunk, *shared) of every chunk; by several processes from the chunk after which `worth_it` says so.

    `work` is a function of a module, and all it takes and returns can be pickled. Raises what it raises, and
    RecipeError where a process dies.
    """
    processes = min(len(os.sched_getaffinity(0)), MOST)
    for chunk in chunks:
        yield work(chunk, *shared)
        if processes > 1 and worth_it():
            break
    yield from _by_several(processes, work, shared, chunks)


def _by_several(
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
                if len(waiting) > WAITING * processes:
                    yield waiting.popleft().result()
        except RecipeError:
            for future in waiting:  # a mistake in an earlier chunk is told first, as if there were one process
                future.result()
            raise
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise RecipeError(
            "a process that prepares data was killed from outside, perhaps for lack of memory; run the command again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_work_here: Callable[[Any], Any]


def _start(work: Callable[..., Any], shared: tuple[Any, ...]) -> None:
    """Set up a worker."""
    global _work_here
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # all cores are taken by its like
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption reaches the first process, which ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work_here = lambda chunk: work(chunk, *shared)  # noqa: E731


def _work(chunk: Any) -> Any:
    return _work_here(chunk)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
