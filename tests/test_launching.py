"""recipes/accelerate: every file is one that the launcher takes, and starts as many processes as it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CONFIGURATIONS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
# Each process leaves a file: two that print at once may share a line.
WHO = """
from pathlib import Path

import torch
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)
Path(__file__).with_name(f"{accelerator.process_index} of {accelerator.num_processes}").touch()
accelerator.wait_for_everyone()
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_the_launcher_takes_every_configuration(path):
    from accelerate.commands.config.config_args import load_config_from_file

    configuration = load_config_from_file(str(path))
    assert configuration.num_processes == {"cpu": 1, "cpu_2": 2, "one_gpu": 1}.get(path.stem, 8)
    assert configuration.use_cpu == path.stem.startswith("cpu")
    assert configuration.mixed_precision == "no"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("name", "expected"), [("cpu", ["0 of 1"]), ("cpu_2", ["0 of 2", "1 of 2"])])
def test_the_processes_know_of_each_other(tmp_path, name, expected):
    (tmp_path / "who.py").write_text(WHO)
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"recipes/accelerate/{name}.yaml",
         "-m", "who"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("* of *")) == expected
