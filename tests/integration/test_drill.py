"""The drill with three kills, and whether it notices each kind of difference."""

import shutil

import pytest
import torch
from torch.distributed.checkpoint.format_utils import torch_save_to_dcp

from tests.support.drill import MismatchError, compare, content, drill


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_run_killed_three_times_ends_bit_for_bit_and_any_changed_file_is_noticed(tmp_path):
    assert sum(drill(tmp_path, kills=3, seed=1).values()) == 3

    whole, changed = tmp_path / "whole", tmp_path / "spoilt"
    for name, part in (("policy/weights", "model"), ("policy/weights", "optimizer"), ("value/weights", "optimizer"),
                       ("state.pt", None), ("random-0.pt", None)):  # fmt: skip
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(whole, changed)
        path = changed / "checkpoint-8" / name
        state = content(path)
        nudge(state[part] if part else state)
        if part:
            torch.save(state, tmp_path / "nudged.pt")
            shutil.rmtree(path)
            torch_save_to_dcp(tmp_path / "nudged.pt", path)
        else:
            torch.save(state, path)
        with pytest.raises(MismatchError, match=f"{name} differs"):
            compare(whole, changed)


def test_a_run_killed_while_it_copies_checkpoints_from_a_local_disk_ends_bit_for_bit(tmp_path):
    assert sum(drill(tmp_path, 3, 2, f"run.local_dir={tmp_path}/disk").values()) == 3
    assert not list((tmp_path / "disk").iterdir())


def nudge(state):
    """Change the first number found in a nested state; return whether there was one."""
    for key, value in state.items() if isinstance(state, dict) else enumerate(state):
        if isinstance(value, float | int):
            state[key] = value + 1
            return True
        if isinstance(value, torch.Tensor) and value.numel():
            value.view(-1)[0] += 1
            return True
        if isinstance(value, dict | list) and nudge(value):
            return True
    return False
