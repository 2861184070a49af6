"""PPO on several ranks, under DDP or sharded: rollouts, metrics and weights equal those of one process."""

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
from tests.support.stage_runs import assert_metrics_close, has_gradient, store_in_bfloat16, weights

# Small micro-batches and responses of different lengths: some ranks have fewer forward passes, some have none.
CHANGES = ["ppo.steps=4", "run.save_steps=1", "run.keep_checkpoints=4", "ppo.micro_batch_tokens=40",
           "ppo.policy_learning_rate=1e-3", "ppo.value_learning_rate=1e-3", "ppo.log_samples=8"]  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    recipe = make_setting(tmp_path_factory.mktemp("setting"))
    for model in ("policy", "reward"):
        store_in_bfloat16(recipe.parent / model)
    return recipe


@pytest.fixture(scope="module")
def single_process(setting, tmp_path_factory):
    """Return the run folder of one process."""
    run = tmp_path_factory.mktemp("alone")
    train(recipe_of(setting, f"run.dir={run}", *CHANGES))
    return run


@pytest.fixture(scope="module")
def on_ranks(setting, tmp_path_factory):
    """Return a function to the run folder of several ranks, each run made once."""

    @cache
    def run_of(processes, hardware):
        run = tmp_path_factory.mktemp(hardware)
        run_stage("ppo", setting, f"run.dir={run}", *CHANGES, processes=processes, hardware=hardware)
        return run

    return run_of


def assert_the_same_run(run, single_process):
    assert_metrics_close(run, single_process)
    for ours, theirs in zip(read(run / "rollouts.jsonl"), read(single_process / "rollouts.jsonl"), strict=True):
        assert (ours["prompt"], ours["response"]) == (theirs["prompt"], theirs["response"])
    for name in ("model", "value"):
        ours, theirs = weights(run, name), weights(single_process, name)
        assert ours.keys() == theirs.keys()
        for key in filter(has_gradient, theirs):
            assert_close(ours[key], theirs[key], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("processes", "hardware"), [(2, "ddp"), (3, "ddp"), (2, "fsdp2"), (3, "fsdp2"), (2, "zero2"), (2, "zero3")]
)
def test_a_run_on_several_ranks_equals_one_on_a_single_process(single_process, on_ranks, processes, hardware):
    assert_the_same_run(on_ranks(processes, hardware), single_process)


@pytest.mark.parametrize(
    ("written_by", "step", "resumed_by"),
    [
        ("fsdp2", 1, [(4, "fsdp2"), (2, "zero3")]),  # the policy has not stepped yet
        ("zero2", 1, [(1, "alone"), (3, "zero3")]),
        ("zero3", 2, [(4, "zero2"), (2, "fsdp2")]),
        ("ddp", 2, [(1, "alone"), (4, "ddp")]),
    ],
)
def test_a_checkpoint_of_two_ranks_resumes_on_any_number(
    setting, single_process, on_ranks, tmp_path, written_by, step, resumed_by
):
    for processes, hardware in resumed_by:
        run = tmp_path / f"{processes}-{hardware}"
        shutil.copytree(on_ranks(2, written_by), run)
        stop_at(run, step)
        if hardware == "alone":
            train(recipe_of(setting, f"run.dir={run}", *CHANGES))
        else:
            run_stage("ppo", setting, f"run.dir={run}", *CHANGES, processes=processes, hardware=hardware)
        assert_the_same_run(run, single_process)


def stop_at(run, step):
    """Make the run look as if it had been killed after that step."""
    (run / "finished.json").unlink()
    for later in ("model", "value", *(f"checkpoint-{n}" for n in range(step + 1, 5))):
        shutil.rmtree(run / later)


OPTIONS = {
    "groups": ["ppo.advantage=rloo", "ppo.value_warmup_steps=0", "ppo.loss_mean=sequence", "ppo.target_approx_kl=0.1"],
    "sets": ["sampling.logprobs=truncated", "ppo.reward_normalisation=mean_std", "ppo.entropy_coef=0.01"],
    "held out": ["watch.gold=tests.integration.test_ppo_processes:short_is_good", "watch.every=2"],
}


def short_is_good(record, answer):
    return {"gold": -len(answer)}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_combine_responses_do_not_depend_on_the_number_of_ranks(setting, tmp_path, name):
    held_out = [f"data.heldout={{path: {setting.parent}/prompts.jsonl, take: 5}}"] * (name == "held out")
    changes = [*CHANGES, "ppo.steps=3", *OPTIONS[name], *held_out]
    train(recipe_of(setting, f"run.dir={tmp_path / 'one'}", *changes))
    run_stage("ppo", setting, f"run.dir={tmp_path / 'two'}", *changes, processes=2)
    assert_metrics_close(tmp_path / "one", tmp_path / "two")


def test_a_shared_base_on_two_ranks_equals_one_on_a_single_process(setting, tmp_path):
    changes = [*CHANGES, "ppo.steps=3", *make_adapters(setting.parent), "models=shared"]
    train(recipe_of(setting, f"run.dir={tmp_path / 'one'}", *changes))
    run_stage("ppo", setting, f"run.dir={tmp_path / 'two'}", *changes, processes=2)
    assert_metrics_close(tmp_path / "one", tmp_path / "two")
    for name in ("model", "value"):
        ours, theirs = (load_file(tmp_path / n / name / "adapter_model.safetensors") for n in ("one", "two"))
        for key in filter(has_gradient, theirs):
            assert_close(ours[key], theirs[key], atol=1e-4, rtol=0)
    with pytest.raises(RunError, match=r"models=shared runs in one process or under ddp; use HARDWARE=ddp, or set"):
        run_stage("ppo", setting, f"run.dir={tmp_path / 'sharded'}", *changes, hardware="fsdp2")


def test_target_approx_kl_under_deepspeed_is_refused(setting, tmp_path):
    with pytest.raises(RunError) as error:
        run_stage("ppo", setting, f"run.dir={tmp_path}", "ppo.target_approx_kl=0.1", hardware="zero2")
    assert str(error.value) == (
        "ppo.target_approx_kl discards gradients, which DeepSpeed cannot do; use HARDWARE=fsdp2, or set "
        "ppo.target_approx_kl=null"
    )
