"""How torch's threads wait for each other, chosen before torch is imported.

A step runs thousands of parallel operations, and after each the threads meet. libgomp, the OpenMP of torch's packages
for Linux, lets a thread that is early spin for some milliseconds before it sleeps. That is fastest while every thread
has a core. Where another process keeps one busy, the spinning thread takes the very time that the late one needs, and a
step takes several times as long; then a thread should sleep at once (OMP_WAIT_POLICY=PASSIVE), which costs too much on
a free machine. docs/performance.md has the figures. Number of threads and results are the same either way.

libgomp reads the variable once, when it is loaded, and processes that are started from here inherit it. Load that comes
later changes nothing.
"""

import os
import sys

import psutil

# Set by users who have chosen for themselves.
CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Seconds for which the machine is watched, and how much of a core may be missing to a thread for each.
WATCH_SECONDS, MISSING_CORES = 0.2, 0.5


def choose_wait_policy() -> None:
    """Let waiting threads sleep if other processes leave fewer cores free than torch has threads, and say so on stderr.

    What the environment says stays. Nothing is chosen for one thread, which waits for nobody, nor in a launched rank:
    the launcher has chosen before the other ranks were at work.
    """
    environment = os.environ
    if any(name in environment for name in CHOSEN) or "LOCAL_RANK" in environment:
        return
    threads = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    threads = int(threads) if threads.isdecimal() else psutil.cpu_count(logical=False) or psutil.cpu_count()
    if threads == 1:
        return
    used = psutil.cpu_percent(interval=WATCH_SECONDS, percpu=True)
    # Where affinity is not known, as on macOS, every core may be used.
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(used))
    free = sum(1 - used[core] / 100 for core in ours if core < len(used))
    if free < min(threads, len(ours)) - MISSING_CORES:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        print(
            f"other processes leave {free:.1f} of {len(ours)} cores free, so threads that wait sleep "
            "(OMP_WAIT_POLICY=PASSIVE); docs/troubleshooting.md",
            file=sys.stderr, flush=True,
        )  # fmt: skip
