"""PPO in several processes, whole or sharded: the rollouts, metrics and weights of one process, and its checkpoints."""

import shutil
from functools import cache

import pytest
from safetensors.torch import load_file
from torch.testing import assert_close

from engine.errors import RunError
from engine.files.jsonl import read
from ppo.train import train
from tests.support.ppo_setting import make_adapters, make_setting, recipe_of
from tests.support.processes import run_stage
from tests.support.stage_runs import assert_alike, has_gradient, store_in_half, weights

# Small micro-batches and ragged answers: some processes have fewer forward passes than others, some have none.
CHANGES = ["ppo.steps=4", "run.save_steps=1", "run.keep_checkpoints=4", "ppo.micro_batch_tokens=40",
           "ppo.policy_learning_rate=1e-3", "ppo.value_learning_rate=1e-3", "ppo.log_samples=8"]  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    recipe = make_setting(tmp_path_factory.mktemp("setting"))
    for model in ("policy", "reward"):
        store_in_half(recipe.parent / model)
    return recipe


@pytest.fixture(scope="module")
def alone(setting, tmp_path_factory):
    """The run of one process."""
    run = tmp_path_factory.mktemp("alone")
    train(recipe_of(setting, f"run.dir={run}", *CHANGES))
    return run


@pytest.fixture(scope="module")
def together(setting, tmp_path_factory):
    """Runs of several processes, each made when it is first asked for."""

    @cache
    def run_of(processes, hardware):
        run = tmp_path_factory.mktemp(hardware)
        run_stage("ppo", setting, f"run.dir={run}", *CHANGES, processes=processes, hardware=hardware)
        return run

    return run_of


def assert_the_same_run(run, alone):
    assert_alike(run, alone)
    for ours, theirs in zip(read(run / "rollouts.jsonl"), read(alone / "rollouts.jsonl"), strict=True):
        assert (ours["prompt"], ours["response"]) == (theirs["prompt"], theirs["response"])
    for name in ("model", "value"):
        ours, theirs = weights(run, name), weights(alone, name)
        assert ours.keys() == theirs.keys()
        for key in filter(has_gradient, theirs):
            assert_close(ours[key], theirs[key], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("processes", "hardware"), [(2, "ddp"), (3, "ddp"), (2, "fsdp2"), (3, "fsdp2"), (2, "zero2"), (2, "zero3")]
)
def test_several_processes_are_one(alone, together, processes, hardware):
    assert_the_same_run(together(processes, hardware), alone)


@pytest.mark.parametrize(
    ("written_by", "step", "goes_on"),
    [
        ("fsdp2", 1, [(4, "fsdp2"), (2, "zero3")]),  # the policy has not stepped yet
        ("zero2", 1, [(1, "alone"), (3, "zero3")]),
        ("zero3", 2, [(4, "zero2"), (2, "fsdp2")]),
        ("ddp", 2, [(1, "alone"), (4, "ddp")]),
    ],
)
def test_a_checkpoint_of_two_processes_resumes_on_any_number(
    setting, alone, together, tmp_path, written_by, step, goes_on
):
    for processes, hardware in goes_on:
        run = tmp_path / f"{processes}-{hardware}"
        shutil.copytree(together(2, written_by), run)
        stop_at(run, step)
        if hardware == "alone":
            train(recipe_of(setting, f"run.dir={run}", *CHANGES))
        else:
            run_stage("ppo", setting, f"run.dir={run}", *CHANGES, processes=processes, hardware=hardware)
        assert_the_same_run(run, alone)


def stop_at(run, step):
    """As if the run had been killed after that step."""
    (run / "finished.json").unlink()
    for later in ("model", "value", *(f"checkpoint-{n}" for n in range(step + 1, 5))):
        shutil.rmtree(run / later)


KNOBS = {
    "groups": ["ppo.advantage=rloo", "ppo.value_warmup_steps=0", "ppo.loss_mean=sequence", "ppo.target_approx_kl=0.1"],
    "sets": ["sampling.logprobs=truncated", "ppo.reward_normalisation=mean_std", "ppo.entropy_coef=0.01"],
    "held out": ["watch.gold=tests.integration.test_ppo_processes:short_is_good", "watch.every=2"],
}


def short_is_good(record, answer):
    return {"gold": -len(answer)}


@pytest.mark.parametrize("name", KNOBS)
def test_knobs_that_look_across_responses(setting, tmp_path, name):
    held_out = [f"data.heldout={{path: {setting.parent}/prompts.jsonl, take: 5}}"] * (name == "held out")
    changes = [*CHANGES, "ppo.steps=3", *KNOBS[name], *held_out]
    train(recipe_of(setting, f"run.dir={tmp_path / 'one'}", *changes))
    run_stage("ppo", setting, f"run.dir={tmp_path / 'two'}", *changes, processes=2)
    assert_alike(tmp_path / "one", tmp_path / "two")


def test_one_base_with_four_roles_in_two_processes(setting, tmp_path):
    changes = [*CHANGES, "ppo.steps=3", *make_adapters(setting.parent), "models=shared"]
    train(recipe_of(setting, f"run.dir={tmp_path / 'one'}", *changes))
    run_stage("ppo", setting, f"run.dir={tmp_path / 'two'}", *changes, processes=2)
    assert_alike(tmp_path / "one", tmp_path / "two")
    for name in ("model", "value"):
        ours, theirs = (load_file(tmp_path / n / name / "adapter_model.safetensors") for n in ("one", "two"))
        for key in filter(has_gradient, theirs):
            assert_close(ours[key], theirs[key], atol=1e-4, rtol=0)
    with pytest.raises(RunError, match=r"models=shared runs in one process or under ddp; use HARDWARE=ddp, or set"):
        run_stage("ppo", setting, f"run.dir={tmp_path / 'sharded'}", *changes, hardware="fsdp2")


def test_an_early_stop_is_not_for_deepspeed(setting, tmp_path):
    with pytest.raises(RunError) as error:
        run_stage("ppo", setting, f"run.dir={tmp_path}", "ppo.target_approx_kl=0.1", hardware="zero2")
    assert str(error.value) == (
        "ppo.target_approx_kl discards gradients, which DeepSpeed cannot do; use HARDWARE=fsdp2, or set "
        "ppo.target_approx_kl=null"
    )
