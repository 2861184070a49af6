"""sampling.engine=compiled: the responses of the plain decode loop, from few graphs, with the current weights."""

import shutil

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

from config.sections import Model, Sampling
from engine.dist.sharding import Sharding
from engine.errors import RunError
from engine.forward.attention import use_attention
from engine.generation import compiled as module
from engine.generation.compiled import CompiledDecoder
from engine.generation.engines import ENGINES
from engine.generation.request import GenerationRequest
from engine.generation.sampling import sample
from engine.generation.streams import RandomStream
from engine.models.adapter_files import read_adapter
from engine.models.loading import load_causal
from engine.models.multi_adapter import Role, Roles
from engine.models.tokenizer import load_tokenizer
from ppo.train import train
from tests.support.compat import counting_backend, is_static_input
from tests.support.ppo_setting import make_adapters, make_setting, recipe_of
from tests.support.small_models import small_model
from tests.support.stage_runs import untimed

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16], [17]] * 5
STOPS = range(1, 20)  # so many that responses end at different steps


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    recipe = make_setting(tmp_path_factory.mktemp("setting"))
    make_adapters(recipe.parent)
    return recipe


@pytest.fixture
def counter(monkeypatch):
    """Return a backend that traces and counts graphs without generating code."""
    torch.compiler.reset()
    monkeypatch.setattr(module, "BACKEND", counting_backend("aot_eager"))
    return module.BACKEND


def generate(model, compiled=None, *, prompts=PROMPTS, step=1, record=False, **settings):
    sampling = Sampling(**{"max_new_tokens": 24, "batch_size": 64, **settings})
    request = GenerationRequest(
        prompts, range(len(prompts)), responses=2, stream=RandomStream.of_step(3, step), record_supports=record
    )
    return sample(model, request, sampling, end=1, stops=STOPS, compiled=compiled)


def assert_same(got, expected):
    assert got == expected  # tokens, ends and supports
    mine, theirs = ([p for group in groups for r in group for p in r.logprobs] for groups in (got, expected))
    assert_close(torch.tensor(mine), torch.tensor(theirs), atol=1e-4, rtol=0)


def change(model):
    """Change the weights in place, as an optimiser does."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_responses_equal_the_plain_loops_before_and_after_the_weights_change(counter, family):
    model = small_model(family)
    compiled = CompiledDecoder(model)
    first = generate(model)
    assert len({len(r.tokens) for group in first for r in group}) > 5  # rows end at different steps
    assert_same(generate(model, compiled), first)
    assert counter.frame_count == 3  # 64, 32 and 16 rows
    change(model)
    second = generate(model, step=2)
    assert second != generate(small_model(family), step=2)
    assert_same(generate(model, compiled, step=2), second)
    assert counter.frame_count == 3


def test_recorded_supports_equal_the_plain_loops(counter):
    model = small_model()
    got = generate(model, CompiledDecoder(model), record=True, top_p=0.6)
    assert all(r.supports for group in got for r in group)
    assert_same(got, generate(model, record=True, top_p=0.6))


def test_ragged_batches_need_few_graphs(counter):
    """Prompts of 1 to 40 tokens: every batch of a rollout has one width, and there are few widths."""
    model = small_model()
    compiled = CompiledDecoder(model)
    ragged = [[3 + (7 * i + t) % 300 for t in range(1 + i)] for i in range(40)]
    assert_same(
        generate(model, compiled, prompts=ragged, batch_size=16), generate(model, prompts=ragged, batch_size=16)
    )
    assert set(compiled.views) == {(16, 64)}
    longer = [*ragged, [9] * 60]
    assert_same(generate(model, compiled, prompts=longer), generate(model, prompts=longer))
    assert set(compiled.views) == {(64, 96), (32, 96), (16, 96)}
    for _ in range(2):
        assert_same(generate(model, compiled, prompts=ragged), generate(model, prompts=ragged))
    assert counter.frame_count == 1 + 3 + 2
    assert compiled.buffers[0][0].shape == (64 * 96, 2, 8)


def test_earlier_rollouts_do_not_change_later_responses(counter):
    """Log-probabilities are equal bit for bit after a rollout of longer prompts and more rows, so a resume is exact."""
    model = small_model()
    fresh, used = CompiledDecoder(model), CompiledDecoder(model)
    generate(model, used, prompts=[[4] * 100, *PROMPTS, *PROMPTS], batch_size=128)
    got, expected = (generate(model, compiled) for compiled in (used, fresh))
    assert [r.logprobs for group in got for r in group] == [r.logprobs for group in expected for r in group]


def test_a_role_of_a_shared_base_decodes_with_its_own_adapter(counter, setting):
    """A change of another role's adapter does not affect it, and a change of its own does."""
    folder = setting.parent
    base = load_causal(f"{folder}/policy", Model(path=""), load_tokenizer(f"{folder}/policy"), trained=False)
    roles, sft = Roles(), read_adapter(f"{folder}/sft", "model.path")
    policy, value = (Role(base, roles, name, sft, torch.float32, trained=True) for name in ("policy", "value"))
    compiled = CompiledDecoder(policy)
    first = generate(policy)
    assert_same(generate(policy, compiled), first)
    graphs = counter.frame_count
    change(value)
    assert generate(value) != first
    assert_same(generate(policy, compiled), first)
    change(policy)
    second = generate(policy)
    assert second != first
    assert_same(generate(policy, compiled), second)
    assert counter.frame_count == graphs


def test_only_tokens_and_positions_are_not_static_inputs_of_the_graph(counter):
    """A CUDA graph copies inputs that are not static; weights and buffers are marked as static."""
    model = small_model()
    generate(model, CompiledDecoder(model))
    inputs = counter.graphs[0].graph.find_nodes(op="placeholder")
    copied = [node for node in inputs if not is_static_input(node)]
    assert [tuple(node.meta["example_value"].shape) for node in copied] == [(64,), (64,), (1,)]
    assert len(inputs) > 3 + 2 * 2


def test_under_autocast_weights_are_cast_once_per_rollout(counter):
    """The graph has bfloat16 copies of the float32 weights, which are the same tensors as before afterwards."""
    model = small_model(tie_word_embeddings=True)
    addresses = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    compiled = CompiledDecoder(model)
    for step in (1, 2):
        with torch.autocast("cpu", torch.bfloat16):
            answers = generate(model, compiled, step=step)
            for prompt, r in ((prompt, r) for prompt, group in zip(PROMPTS, answers, strict=True) for r in group):
                with use_attention(model, "sdpa"), torch.no_grad():
                    logits = model(torch.tensor([[*prompt, *r.tokens]]), use_cache=False).logits[
                        0, len(prompt) - 1 : -1
                    ]
                expected = logits.float().log_softmax(-1).gather(1, torch.tensor(r.tokens)[:, None])[:, 0]
                assert_close(torch.tensor(r.logprobs), expected, atol=0.06, rtol=0)
        change(model)
    given = [node.meta["example_value"] for node in counter.graphs[0].graph.find_nodes(op="placeholder")]
    tables = [value.shape for value in given if value.dtype == torch.float32 and value.ndim == 2]
    assert tables == [(320, 32)]  # the embedding, which autocast does not cast
    assert counter.frame_count == 3
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == addresses
    assert compiled.buffers[0][0].dtype == torch.bfloat16


def test_a_ppo_run_has_the_metrics_of_the_plain_engine(counter, setting, tmp_path):
    train(recipe_of(setting, f"run.dir={tmp_path / 'own'}"))
    train(recipe_of(setting, f"run.dir={tmp_path / 'compiled'}", "sampling.engine=compiled"))
    for a, b in zip(untimed(tmp_path / "own"), untimed(tmp_path / "compiled"), strict=True):
        assert a == pytest.approx(b, abs=2e-4, rel=1e-3)
    assert counter.frame_count == 1


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++")
def test_generated_code_gives_the_plain_loops_responses():
    torch.compiler.reset()
    model = small_model(num_hidden_layers=1)
    prompts = PROMPTS[:4]
    compiled = CompiledDecoder(model)
    assert_same(generate(model, compiled, prompts=prompts), generate(model, prompts=prompts))
    change(model)
    assert_same(generate(model, compiled, prompts=prompts), generate(model, prompts=prompts))


def test_a_compiler_error_is_reported_in_one_line(monkeypatch):
    torch.compiler.reset()

    def no_compiler(graph, inputs):
        raise ValueError("no C++ compiler")

    monkeypatch.setattr(module, "BACKEND", no_compiler)
    model = small_model()
    with pytest.raises(RunError, match=r"^sampling.engine=compiled: .*no C\+\+ compiler; use sampling.engine=own$"):
        generate(model, CompiledDecoder(model))


def test_sliding_window_layers_are_refused():
    model = small_model(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(RunError) as error:
        CompiledDecoder(model)
    assert str(error.value) == (
        "sampling.engine=compiled supports full attention only, and a layer of this model has another kind; "
        "use sampling.engine=own"
    )


def test_sharded_weights_are_refused(monkeypatch, setting):
    monkeypatch.setattr("engine.generation.engines.sharding_of", lambda _: Sharding("fsdp2"))
    model = small_model()
    with pytest.raises(RunError) as error:
        ENGINES["compiled"](model, recipe_of(setting).sampling, 1, accelerator=Accelerator(cpu=True))
    assert str(error.value) == (
        "sampling.engine=compiled runs in one process or under ddp; use HARDWARE=ddp, or sampling.engine=own"
    )
