"""PPO in several processes, whole or sharded: the rollouts, metrics and weights of one process, and its checkpoints."""

import shutil

import pytest
from torch.testing import assert_close

from engine.run.metrics import read
from ppo.train import train
from tests.ppo_setting import make_setting, recipe_of
from tests.processes import run_stage
from tests.stage_runs import assert_alike, same, untimed, weights

# Small micro-batches and ragged answers: some processes have fewer forward passes than others, some have none.
CHANGES = ["ppo.steps=4", "run.save_steps=2", "ppo.micro_batch_tokens=40", "ppo.policy_learning_rate=1e-3",
           "ppo.value_learning_rate=1e-3", "ppo.log_samples=8"]  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def alone(setting, tmp_path_factory):
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone")
    train(recipe_of(setting, f"run.dir={run}", *CHANGES))
    return run


def assert_the_same_run(run, alone):
    assert_alike(run, alone)
    for ours, theirs in zip(read(run / "samples.jsonl"), read(alone / "samples.jsonl"), strict=True):
        assert (ours["prompt"], ours["response"]) == (theirs["prompt"], theirs["response"])
    for name in ("model", "value"):
        ours, theirs = weights(run, name), weights(alone, name)
        assert ours.keys() == theirs.keys()
        for key in theirs:
            assert_close(ours[key], theirs[key], atol=1e-4, rtol=0)


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("processes", "hardware"), [(2, "ddp"), (3, "ddp"), (2, "fsdp2"), (3, "fsdp2")])
def test_several_processes_are_one(setting, alone, tmp_path, processes, hardware):
    run_stage("ppo", setting, f"run.dir={tmp_path}", *CHANGES, processes=processes, hardware=hardware)
    assert_the_same_run(tmp_path, alone)
