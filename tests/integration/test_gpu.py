"""What only a GPU can show. Never run on one: the bodies were run on a CPU (docs/performance.md, "Checks")."""

import shutil

import pytest
import torch
from torch.testing import assert_close

from config.sections import Sampling
from engine.files.jsonl import read
from engine.forward.attention import packed_attention
from engine.forward.packed import layout
from engine.generation.compiled import CompiledDecoder
from engine.generation.request import GenerationRequest
from engine.generation.sampling import sample
from engine.generation.streams import RandomStream
from ppo.train import train
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.small_models import small_model
from tests.support.stage_runs import same, unfinish, untimed, weights

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

# Of pack_pairs: the second sequence's keys are the first three tokens of the row and its own.
SHARED = {
    "cu_seq_lens_q": torch.tensor([0, 5, 9], dtype=torch.int32),
    "cu_seq_lens_k": torch.tensor([0, 5, 12], dtype=torch.int32),
    "max_length_q": 5,
    "max_length_k": 7,
    "key_positions": torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7, 8]),
}


@pytest.mark.parametrize("case", ["sequences", "window", "grouped", "shared prefix"])
def test_bfloat16_attention_equals_one_sequence_at_a_time_in_float32(case):
    """On a GPU varlen_attn, on the CPU torch's attention for each sequence, from the same numbers."""
    torch.manual_seed(0)
    arguments = SHARED if case == "shared prefix" else layout([70, 1, 130])
    total = int(arguments["cu_seq_lens_q"][-1])
    arguments = {name: value for name, value in arguments.items() if name not in ("position_ids", "use_cache")}
    window = {"sliding_window": 16} if case == "window" else {}
    heads = [(4, 2 if case == "grouped" else 4)[kind != "query"] for kind in ("query", "key", "value")]
    tensors = [torch.randn(1, number, total, 64).bfloat16() for number in heads]
    expected, _ = packed_attention(None, *(tensor.float() for tensor in tensors), None, **arguments, **window)
    there = {name: value.to(DEVICE) if torch.is_tensor(value) else value for name, value in arguments.items()}
    found, _ = packed_attention(None, *(tensor.to(DEVICE) for tensor in tensors), None, **there, **window)
    assert_close(found.cpu().float(), expected, atol=0.02, rtol=0.02)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def test_bfloat16_ppo_starts_at_a_kl_of_exactly_0(setting, tmp_path):
    one_step = ["ppo.steps=1", "ppo.value_warmup_steps=0", "run.save_steps=1"]
    train(recipe_of(setting, f"run.dir={tmp_path}", "model.dtype=bfloat16", *one_step))
    (first,) = read(tmp_path / "metrics.jsonl")
    assert first["kl"] == 0
    assert first["first_ratio_error"] <= 0.05


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(setting, tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(recipe_of(setting, f"run.dir={whole}", "run.save_steps=1"))
    shutil.copytree(whole, resumed)
    unfinish(resumed, 2)
    train(recipe_of(setting, f"run.dir={resumed}", "run.save_steps=1"))
    assert untimed(resumed) == untimed(whole)
    for name in ("model", "value"):
        assert same(weights(resumed, name), weights(whole, name))


def test_compiled_decoding_draws_the_tokens_of_own():
    """With CUDA graphs, and rows that end at different times; twice, since the second time replays them."""
    model = small_model().to(DEVICE)
    compiled = CompiledDecoder(model)
    prompts = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16], [17]]

    def drawn(step, compiled):
        request = GenerationRequest(prompts, range(4), responses=2, stream=RandomStream.of_step(3, step))
        found = sample(model, request, Sampling(max_new_tokens=24), end=1, stops=range(1, 20), compiled=compiled)
        return [response.tokens for group in found for response in group]

    for step in (1, 2):
        assert drawn(step, compiled) == drawn(step, None)
