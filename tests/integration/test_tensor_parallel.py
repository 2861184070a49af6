"""Tensor-parallel decoding: the responses equal those of one process, and each rank has a shard of the weights."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from transformers import Qwen2MoeConfig, Qwen2MoeForCausalLM

from config import RecipeError
from config.sections import Sampling
from engine.errors import RunError
from engine.generation.request import GenerationRequest
from engine.generation.sampling import sample
from engine.generation.streams import RandomStream
from engine.generation.tensor_parallel import TensorParallelGroup, tensor_parallel_plan
from ppo.train import train
from tests.integration.test_ppo_processes import CHANGES, assert_the_same_run
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.processes import run_on_ranks, run_stage
from tests.support.small_models import SIZES, small_model
from tests.support.stage_runs import assert_metrics_close


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def single_process(setting, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone")
    train(recipe_of(setting, f"run.dir={run}", *CHANGES))
    return run


@pytest.mark.parametrize(("processes", "hardware"), [(2, "ddp"), (4, "fsdp2"), (2, "zero3")])
def test_runs_with_sampling_split_equal_one_on_a_single_process(setting, single_process, tmp_path, processes, hardware):
    changes = [*CHANGES, "sampling.split=2"]
    run_stage("ppo", setting, f"run.dir={tmp_path}", *changes, processes=processes, hardware=hardware)
    assert_the_same_run(tmp_path, single_process)


def test_supports_and_held_out_prompts_with_sampling_split(setting, tmp_path):
    """Each rank gets the supports of its own prompts, and a rank without prompts takes part in decoding."""
    changes = [*CHANGES, "ppo.steps=2", "sampling.logprobs=truncated",
               f"data.heldout={{path: {setting.parent}/prompts.jsonl, take: 1}}"]  # fmt: skip
    train(recipe_of(setting, f"run.dir={tmp_path / 'one'}", *changes))
    run_stage("ppo", setting, f"run.dir={tmp_path / 'two'}", *changes, "sampling.split=2", hardware="fsdp2")
    assert_metrics_close(tmp_path / "one", tmp_path / "two")


def sharded_policy():
    """Return a rank's and the model's weights, the logits' largest difference, and the shards' device afterwards."""
    accelerator = Accelerator(cpu=True)
    whole = small_model("qwen3", vocab_size=101, attention_bias=True)
    group = TensorParallelGroup(whole, accelerator.num_processes, accelerator)
    tokens = torch.arange(10)[None]
    with torch.no_grad(), group.sharded_policy() as shards:
        shard_weights = sum(weight.numel() for weight in shards.parameters())
        difference = (shards(tokens).logits - whole(tokens).logits).abs().max()
    left = {weight.device.type for weight in group.empty.parameters()}
    return shard_weights, sum(weight.numel() for weight in whole.parameters()), float(difference), left


def test_each_rank_has_a_shard_of_the_layers_and_the_head():
    """The head's 101 rows are in two shards of 51, and no shard is kept afterwards."""
    for shard_weights, whole, difference, left in run_on_ranks(sharded_policy):
        assert difference < 1e-5
        heads = (32 + 16 + 16) * (32 + 1) + 32 * 32  # the output projection's bias is added once and stored in both
        assert shard_weights == whole - 2 * (heads + 3 * 32 * 64) // 2 - 50 * 32
        assert left == {"meta"}


def generated_with(seeds):
    """Return the responses to two prompts, one per rank, each rank with its own seed."""
    accelerator = Accelerator(cpu=True)
    rank, model = accelerator.process_index, small_model()
    group = (
        TensorParallelGroup(model, accelerator.num_processes, accelerator) if accelerator.num_processes > 1 else None
    )
    sampling = Sampling(max_new_tokens=20)
    decode = partial(sample, sampling=sampling, end=7, stops=[7, 8])
    request = GenerationRequest([[1, 2, 3], [4, 5]], [0, 1], responses=2, stream=RandomStream.of_step(seeds[rank], 1))
    if group is None:
        return decode(model, request)
    own = replace(request, prompts=request.prompts[rank : rank + 1], query_ids=[rank])
    (responses,) = group.generate(decode, own)
    return responses


def test_all_ranks_of_a_group_use_the_draws_of_the_first():
    """With rounding, ranks could draw different tokens and then wait for each other forever."""
    assert run_on_ranks(generated_with, [3, 4]) == generated_with([3])


def test_impossible_splits_are_refused(setting, tmp_path):
    with pytest.raises(RunError) as error:
        tensor_parallel_plan(small_model(), 4)
    assert str(error.value) == "sampling.split=4 does not divide this model's num_key_value_heads, 2; choose another"
    experts = Qwen2MoeForCausalLM(Qwen2MoeConfig(**SIZES, num_experts=2, moe_intermediate_size=32))
    with pytest.raises(RunError) as error:
        tensor_parallel_plan(experts, 2)
    assert str(error.value) == "sampling.split=2: a qwen2_moe model cannot be sharded for decoding; use 1"
    with pytest.raises(RunError) as error:
        train(recipe_of(setting, f"run.dir={tmp_path}", "sampling.split=2"))
    assert str(error.value) == (
        "sampling.split=2 does not divide the number of ranks, 1; choose a divisor of it, preferably at most the "
        "ranks of one machine"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sampling.engine=vllm", "sampling.split=2 needs sampling.engine=own; vllm does not support it"),
        ("models=shared", "sampling.split=2: models=shared stores the full base on every rank; set it to 1"),
    ],
)
def test_sampling_split_with_other_engines_or_a_shared_base_is_refused(setting, override, message):
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, "sampling.split=2", override)
    assert str(error.value) == message
