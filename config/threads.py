"""Choose how torch's threads wait for each other, before torch is imported.

A step runs thousands of parallel operations, and its threads synchronise after each. libgomp, the OpenMP runtime of
torch's Linux packages, lets a waiting thread spin for some milliseconds before it sleeps. That is fastest while every
thread has its own core. If another process keeps a core busy, spinning threads take the time that the late thread
needs, and a step takes several times as long. Waiting threads should then sleep at once (OMP_WAIT_POLICY=PASSIVE),
which is too slow on a free machine. docs/performance.md has measurements. The number of threads and the results are
the same either way.

libgomp reads the variable once, when it is loaded, and child processes inherit it. Load that starts later has no effect
on the choice.
"""

import os
import sys

import psutil

# If the user has set one of these variables, the choice is theirs.
WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Seconds over which CPU use is measured, and how many cores fewer than one per thread still count as free.
WATCH_SECONDS, MISSING_CORES = 0.2, 0.5


def choose_wait_policy() -> None:
    """Let waiting threads sleep if other processes leave fewer free cores than torch has threads; report it on stderr.

    Variables that the user has set are kept. Nothing is done if there is only one thread, nor in a launched rank, since
    the launcher chose before the other ranks used the cores.
    """
    environment = os.environ
    if any(name in environment for name in WAIT_VARIABLES) or "LOCAL_RANK" in environment:
        return
    asked = environment.get("OMP_NUM_THREADS", "").partition(",")[0]
    threads = int(asked) if asked.isdecimal() else psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    if threads == 1:
        return
    used = psutil.cpu_percent(interval=WATCH_SECONDS, percpu=True)
    # If the affinity is unknown, as on macOS, every core may be used.
    ours = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(used))
    free = sum(1 - used[core] / 100 for core in ours if core < len(used))
    if free < min(threads, len(ours)) - MISSING_CORES:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        print(
            f"other processes leave {free:.1f} of {len(ours)} cores free, so waiting threads sleep "
            "(OMP_WAIT_POLICY=PASSIVE); see docs/troubleshooting.md",
            file=sys.stderr,
            flush=True,
        )
