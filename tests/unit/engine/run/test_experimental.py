"""A run prints a note on stderr for each experimental feature that it uses, on rank 0 alone."""

import pytest
import torch

from config import load
from config.experimental import Machine
from engine.run import experimental
from engine.run.experimental import this_machine
from engine.run.folder import RunFolder
from ppo.recipe import PPO
from tests.support.ppo_setting import RECIPE

LINE = (
    "note: sampling.engine=compiled is experimental: not run on a GPU, only on a CPU; "
    "see docs/performance.md#experimental\n"
)


@pytest.fixture
def recipe(tmp_path):
    """A function that returns a recipe whose models do not exist."""
    (tmp_path / "ppo.yaml").write_text(RECIPE.format(folder=tmp_path))
    return lambda *overrides: load(PPO, tmp_path / "ppo.yaml", overrides)


def test_a_run_that_begins_or_resumes_says_it(recipe, monkeypatch, capsys):
    monkeypatch.setattr(experimental, "this_machine", Machine)
    for _ in range(2):
        RunFolder(recipe("sampling.engine=compiled"))
        assert capsys.readouterr().err == LINE
    monkeypatch.setenv("RANK", "1")
    RunFolder(recipe("sampling.engine=compiled"))
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("RANK")
    RunFolder(recipe())
    assert capsys.readouterr().err == ""


def test_the_machine_is_what_torch_and_the_launcher_say(monkeypatch):
    monkeypatch.setattr(experimental.sys, "platform", "linux")
    monkeypatch.setattr(experimental.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert this_machine() == Machine()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in {"WORLD_SIZE": "16", "GROUP_WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}.items():
        monkeypatch.setenv(name, value)
    assert this_machine() == Machine(gpu=True, ranks=16, hosts=2, sharding="fsdp2")
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    assert this_machine().sharding == "zero2"
