"""Three kills of the drill, and that the drill sees what is not the same."""

import shutil

import pytest
import torch

from tests.drill import UnlikeError, compare, content, drill


def test_killed_three_times_it_ends_as_if_it_had_not_been(tmp_path):
    assert sum(drill(tmp_path, kills=3, seed=1).values()) == 3

    whole, spoilt = tmp_path / "whole", tmp_path / "spoilt"
    for name in ("optimizer.bin", "optimizer_1.bin", "custom_checkpoint_0.pkl", "random_states_0.pkl"):
        shutil.rmtree(spoilt, ignore_errors=True)
        shutil.copytree(whole, spoilt)
        path = spoilt / "checkpoint-8" / name
        state = content(path)
        nudge(state)
        torch.save(state, path)
        with pytest.raises(UnlikeError, match=f"{name} differs"):
            compare(whole, spoilt)


def test_killed_while_checkpoints_are_copied_from_a_local_disk_too(tmp_path):
    assert sum(drill(tmp_path, 3, 2, f"run.local_dir={tmp_path}/disk").values()) == 3
    assert not list((tmp_path / "disk").iterdir())


def nudge(state):
    """Change the first number found, however deep it lies."""
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
