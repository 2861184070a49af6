"""Processes that prepare the same rows: one writes, a killed one leaves no partial result, memory is bounded."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.support.paths import ROOT
from tests.support.rows_setting import talk

RECORDS = [{"messages": talk(f"How many is {n}?", "so " * (n % 7) + ".")} for n in range(90)]
RUN = """
import os, sys
os.sched_getaffinity = lambda _: range(2)  # with one core no workers would be started
from engine.data import prepare, chunks
from engine.dist.devices import peak_memory
from tests.support.rows_setting import conversation_rows, recipe
from tests.support.tokenizers import qwen
if __name__ == "__main__":
    chunks.CHUNK_RECORDS, prepare.WORKERS_WORTH_SECONDS = 50, float(sys.argv[2])
    write = prepare._write
    prepare._write = lambda *a: print("writes", flush=True) or write(*a)
    rows, report = conversation_rows(sys.argv[1], recipe(), qwen(), key="data.train", max_length=2048)
    print(len(rows), report.tokens, rows.cache_files[0]["filename"])
    print(peak_memory() >> 20)
"""


def start(tmp_path, path, workers_worth_seconds=1e9):
    script = tmp_path / "prepare_rows.py"
    if not script.exists():  # a process started before may be reading it
        script.write_text(RUN)
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, script, path, str(workers_worth_seconds)], env=environment, cwd=ROOT,
                            stdout=subprocess.PIPE, text=True)  # fmt: skip


def test_one_process_writes_the_rows_and_the_others_wait(file, tmp_path):
    path = file(*RECORDS * 20)
    processes = [start(tmp_path, path) for _ in range(3)]
    output = [process.communicate(timeout=500)[0].splitlines() for process in processes]
    assert sum("writes" in lines for lines in output) == 1
    assert len({lines[-2] for lines in output}) == 1


def test_a_killed_process_leaves_no_partial_rows_and_no_workers(file, tmp_path):
    path = file(*RECORDS * 100)
    killed = start(tmp_path, path, workers_worth_seconds=-1.0)
    assert killed.stdout.readline() == "writes\n"
    partial = wait_for(lambda: next((tmp_path / "cache" / "plumbline").glob(".*.partial/rows.arrow"), None))
    children = wait_for(lambda: children_of(killed.pid))
    wait_for(lambda: partial.stat().st_size > 0)
    killed.kill()
    killed.communicate()
    assert partial.exists()
    assert not [folder for folder in partial.parent.parent.iterdir() if folder.is_dir() and folder != partial.parent]
    wait_for(lambda: not any(is_running(int(child)) for child in children))
    output = start(tmp_path, path).communicate(timeout=500)[0].splitlines()
    assert output[0] == "writes"
    assert output[1].startswith("9000 ")
    assert not partial.exists()


def is_running(pid):
    """Return whether a process exists and is not a zombie; some containers never reap zombies."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def wait_for(condition, seconds=500):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def test_memory_does_not_grow_with_the_size_of_the_source(file, tmp_path):
    """With five times the text, 10 million tokens more (700 MiB as lists of numbers), the peak grows by < 40 MiB."""
    peaks = []
    for times in (1, 5):
        path = file(*[{"text": "ab 1 " * 2000}] * 300 * times, name=f"{times}.jsonl")
        output = start(tmp_path, path).communicate(timeout=500)[0].splitlines()
        assert int(output[-2].split()[1]) > 2_400_000 * times
        peaks.append(int(output[-1]))
    assert peaks[1] < peaks[0] + 40
