"""sampling.engine=compiled: the plain loop's answers, from few graphs, which see the weights as they are."""

import dataclasses

import pytest
import torch
from accelerate import Accelerator
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from engine.models import compiled as module
from engine.models.compiled import Compiled, fixed_columns, fixed_rows
from engine.models.adapter_files import read_adapter
from engine.models.loading import load_causal
from engine.models.sampling import sample
from engine.models.shared import Role, Roles
from engine.models.tokenizer import load_tokenizer
from engine.run.folder import RunError
from engine.run.metrics import read
from ppo.train import train
from recipes.sections import Model, Sampling
from tests.ppo_setting import make_adapters, make_setting, recipe_of
from tests.small_models import small_model
from tests.stage_runs import untimed

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16], [17]] * 5
STOPS = range(1, 20)  # so many that answers end at different times


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    recipe = make_setting(tmp_path_factory.mktemp("setting"))
    make_adapters(recipe.parent)
    return recipe


@pytest.fixture
def counter(monkeypatch):
    """Graphs are traced and counted, and no code is generated of them."""
    torch._dynamo.reset()
    monkeypatch.setattr(module, "BACKEND", CompileCounterWithBackend("aot_eager"))
    return module.BACKEND


def written(model, compiled=None, *, prompts=PROMPTS, step=1, record=False, **settings):
    sampling = Sampling(**{"max_new_tokens": 24, "batch_size": 64, **settings})
    return sample(
        model, prompts, sampling, responses=2, end=1, stops=STOPS, seed=3, step=step,
        query_ids=range(len(prompts)), record=record, compiled=compiled,
    )  # fmt: skip


def assert_same(got, expected):
    assert got == expected  # tokens, ends and supports
    mine, theirs = ([p for group in groups for r in group for p in r.logprobs] for groups in (got, expected))
    assert_close(torch.tensor(mine), torch.tensor(theirs), atol=1e-4, rtol=0)


def change(model):
    """As an optimiser does: in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_answers_are_the_plain_loops_before_and_after_the_weights_change(counter, family):
    model = small_model(family)
    compiled = Compiled(model)
    first = written(model)
    assert len({len(r.tokens) for group in first for r in group}) > 5  # rows leave at different times
    assert_same(written(model, compiled), first)
    assert counter.frame_count == 3  # 64, 32 and 16 rows
    change(model)
    second = written(model, step=2)
    assert second != written(small_model(family), step=2)
    assert_same(written(model, compiled, step=2), second)
    assert counter.frame_count == 3


def test_sets_that_tokens_were_drawn_from_are_the_plain_loops(counter):
    model = small_model()
    got = written(model, Compiled(model), record=True, top_p=0.6)
    assert all(r.supports for group in got for r in group)
    assert_same(got, written(model, record=True, top_p=0.6))


def test_ragged_batches_need_few_graphs(counter):
    """Prompts of 1 to 40 tokens in batches of other widths: one width of buffers, until a longer prompt comes."""
    model = small_model()
    compiled = Compiled(model)
    ragged = [[3 + (7 * i + t) % 300 for t in range(1 + i)] for i in range(40)]
    assert_same(written(model, compiled, prompts=ragged, batch_size=16), written(model, prompts=ragged, batch_size=16))
    assert counter.frame_count == 1
    assert compiled.buffers[0][0].shape == (16, 2, 64, 8)
    longer = [*ragged, [9] * 60]
    assert_same(written(model, compiled, prompts=longer), written(model, prompts=longer))
    assert counter.frame_count == 1 + 3
    assert compiled.buffers[0][0].shape == (64, 2, 96, 8)
    assert_same(written(model, compiled, prompts=ragged), written(model, prompts=ragged))
    assert counter.frame_count == 1 + 3


def test_a_role_of_a_shared_base_decodes_for_itself_alone(counter, setting):
    """Another role of the same base between two rollouts, and a changed adapter, are seen."""
    folder = setting.parent
    base = load_causal(f"{folder}/policy", Model(path=""), load_tokenizer(f"{folder}/policy"), trained=False)
    roles, sft = Roles(), read_adapter(f"{folder}/sft", "model.path")
    policy, value = (Role(base, roles, name, sft, torch.float32, trained=True) for name in ("policy", "value"))
    compiled = Compiled(policy)
    first = written(policy)
    assert_same(written(policy, compiled), first)
    graphs = counter.frame_count
    change(value)
    value(torch.tensor([[5]]))
    assert_same(written(policy, compiled), first)
    change(policy)
    second = written(policy)
    assert second != first
    assert_same(written(policy, compiled), second)
    assert counter.frame_count == graphs
