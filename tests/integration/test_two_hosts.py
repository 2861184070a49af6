"""Ranks on two machines, simulated by network namespaces with an address each, which only root may create.

multi_node.yaml uses GPUs and FSDP2; here the ranks are plain CPU processes.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.support.paths import ROOT
from tests.support.ppo_setting import make_setting as make_ppo_setting
from tests.support.uneven_setting import assert_same_run, make_setting, run_in_this_process

LAUNCH = """
import sys
from pathlib import Path
from engine.run import accelerate_config, launch

accelerate_config.CONFIGURATIONS = Path(sys.argv[1])
launch.launch("two_hosts", *sys.argv[2:])
"""
# As multi_node.yaml, for the CPU.
CONFIGURATION = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
use_cpu: true
num_machines: 2
num_processes: 4
machine_rank: 0
main_process_ip: 10.77.0.1
main_process_port: 29500
mixed_precision: 'no'
main_training_function: main
"""


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def hosts():
    """Create two network namespaces connected by a virtual cable; return their names."""
    names = [f"plumbline-{os.getpid()}-{number}" for number in (1, 2)]
    if shutil.which("ip") is None:
        pytest.skip("the command ip is not installed")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
            ip("netns", "exec", name, "true")
        yield names
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be created: {error.stderr.decode().strip()}")
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def launch(hosts, tmp_path):
    """Return a function that starts a stage on both machines, the first one first; the processes end with the test."""
    (tmp_path / "two_hosts.yaml").write_text(CONFIGURATION)
    started = []

    def start(*arguments: str) -> list[subprocess.Popen[str]]:
        for rank, name in enumerate(hosts):
            environment = {"MACHINE_RANK": str(rank), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"}
            command = ["ip", "netns", "exec", name, sys.executable, "-c", LAUNCH, str(tmp_path), *map(str, arguments)]
            started.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, text=True))  # fmt: skip
        return started

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


def test_a_run_on_two_machines_equals_one_on_a_single_process(launch, tmp_path):
    setting = make_setting(tmp_path / "setting")
    for process in launch("sft", setting / "sft.yaml", f"run.dir={tmp_path / 'run'}"):
        _, stderr = process.communicate(timeout=500)
        assert process.returncode == 0, stderr
    assert_same_run(run_in_this_process(setting, "sft"), tmp_path / "run")
    logs = {path.name for path in (tmp_path / "run" / "logs").iterdir()}
    assert logs == {f"process-{rank}.log" for rank in range(4)}


def test_a_rank_that_dies_on_one_machine_ends_the_run_on_both(launch, tmp_path):
    run = tmp_path / "run"
    first, second = launch("ppo", make_ppo_setting(tmp_path), f"run.dir={run}", "ppo.steps=5000", "run.save_steps=5")
    deadline = time.monotonic() + 500
    while not (run / "checkpoint-5").exists():
        assert time.monotonic() < deadline
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.05)
    psutil.Process(second.pid).children()[0].send_signal(signal.SIGKILL)
    for process, code, last in (
        (first, 1, "error: another process of this run has ended; the same command continues from the last checkpoint"),
        (second, 137, "was killed by SIGKILL; the same command continues from the last checkpoint"),
    ):
        _, stderr = process.communicate(timeout=500)
        assert (process.returncode, stderr.splitlines()[-1][-len(last) :]) == (code, last)
    assert not (run / "finished.json").exists()
