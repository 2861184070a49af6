"""Tensor-parallel decoding over several processes: one process's answers, a part of the weights each."""

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
from tests.support.processes import run_stage, together
from tests.support.small_models import SIZES, small_model
from tests.support.stage_runs import assert_alike


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def alone(setting, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone")
    train(recipe_of(setting, f"run.dir={run}", *CHANGES))
    return run


@pytest.mark.parametrize(("processes", "hardware"), [(2, "ddp"), (4, "fsdp2"), (2, "zero3")])
def test_teams_write_what_one_process_writes(setting, alone, tmp_path, processes, hardware):
    changes = [*CHANGES, "sampling.split=2"]
    run_stage("ppo", setting, f"run.dir={tmp_path}", *changes, processes=processes, hardware=hardware)
    assert_the_same_run(tmp_path, alone)


def test_sets_and_heldout_prompts_of_a_team(setting, tmp_path):
    """Recorded sets reach the process that asked; one process has no prompt left at the end, and writes along."""
    changes = [*CHANGES, "ppo.steps=2", "sampling.logprobs=truncated",
               f"data.heldout={{path: {setting.parent}/prompts.jsonl, take: 1}}"]  # fmt: skip
    train(recipe_of(setting, f"run.dir={tmp_path / 'one'}", *changes))
    run_stage("ppo", setting, f"run.dir={tmp_path / 'two'}", *changes, "sampling.split=2", hardware="fsdp2")
    assert_alike(tmp_path / "one", tmp_path / "two")


def sharded_policy():
    """Return a rank's and the model's weights, the logits' largest difference, and the shards' device afterwards."""
    accelerator = Accelerator(cpu=True)
    whole = small_model("qwen3", vocab_size=101, attention_bias=True)
    team = TensorParallelGroup(whole, accelerator.num_processes, accelerator)
    tokens = torch.arange(10)[None]
    with torch.no_grad(), team.sharded_policy() as shards:
        held = sum(weight.numel() for weight in shards.parameters())
        difference = (shards(tokens).logits - whole(tokens).logits).abs().max()
    left = {weight.device.type for weight in team.empty.parameters()}
    return held, sum(weight.numel() for weight in whole.parameters()), float(difference), left


def test_each_has_its_part_of_the_layers_and_the_head():
    """101 rows of a head in two shards of 51; biases and norms of heads; nothing is kept afterwards."""
    for held, whole, difference, left in together(sharded_policy):
        assert difference < 1e-5
        heads = (32 + 16 + 16) * (32 + 1) + 32 * 32  # the last one's bias is added once, and there in both
        assert held == whole - 2 * (heads + 3 * 32 * 64) // 2 - 50 * 32
        assert left == {"meta"}


def written_by(seeds):
    """The answers to two prompts, one of each process, whose random numbers are its own."""
    accelerator = Accelerator(cpu=True)
    rank, model = accelerator.process_index, small_model()
    team = TensorParallelGroup(model, accelerator.num_processes, accelerator) if accelerator.num_processes > 1 else None
    sampling = Sampling(max_new_tokens=20)
    decode = partial(sample, sampling=sampling, end=7, stops=[7, 8])
    request = GenerationRequest([[1, 2, 3], [4, 5]], [0, 1], responses=2, stream=RandomStream.of_step(seeds[rank], 1))
    if team is None:
        return decode(model, request)
    own = replace(request, prompts=request.prompts[rank : rank + 1], query_ids=[rank])
    (responses,) = team.generate(decode, own)
    return responses


def test_a_team_goes_by_what_its_first_process_draws():
    """Rounding might let two processes draw different tokens; they would wait for each other for good."""
    assert together(written_by, [3, 4]) == written_by([3])


def test_what_cannot_be_sharded(setting, tmp_path):
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
def test_recipes_that_make_no_sense(setting, override, message):
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, "sampling.split=2", override)
    assert str(error.value) == message
