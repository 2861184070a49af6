"""Engines and sampling.logprobs: the recorded support of each token, and log-probabilities within it."""

from array import array

import pytest
import torch
from accelerate import Accelerator
from torch.testing import assert_close

import ppo.train
from chatml import control
from config import RecipeError
from engine.errors import RunError
from engine.files.jsonl import read
from engine.forward.attention import use_attention
from engine.forward.logprobs import Support, tiled_logprobs
from engine.forward.responses import response_logprobs
from engine.generation.engines import ENGINES, ContinuousBatchingEngine, OwnEngine, VLLMEngine
from engine.generation.request import GenerationRequest, Response
from engine.generation.streams import RandomStream
from engine.models.loading import load_causal
from engine.models.tokenizer import load_tokenizer
from ppo.assess import assess, engine_difference
from ppo.recipe import PPOSampling
from ppo.rollout import Rollout
from ppo.train import train
from tests.support.ppo_setting import make_setting, recipe_of
from tests.support.stage_runs import assert_metrics_close, same, untimed, weights

TRUNCATED = ["sampling.logprobs=truncated", "sampling.top_p=0.6"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def test_log_probabilities_within_a_support_and_their_gradients(monkeypatch):
    monkeypatch.setattr("engine.forward.logprobs.TILE_ON_CPU", (8, 16))
    torch.manual_seed(0)
    positions, vocabulary = 21, 40
    hidden, weight = torch.randn(positions, 8, requires_grad=True), torch.randn(vocabulary, 8, requires_grad=True)
    inside = torch.rand(positions, vocabulary) < 0.3
    targets = torch.randint(vocabulary, (positions,))
    inside[torch.arange(positions), targets] = True
    support = Support(inside.nonzero()[:, 1], inside.sum(1))
    logprobs, entropy = tiled_logprobs(hidden, weight, targets, 0.8, support)

    plain = (hidden @ weight.t() / 0.8).masked_fill(~inside, -1e9).log_softmax(-1)
    expected = plain.gather(1, targets[:, None])[:, 0]
    plain_entropy = -(plain.exp() * plain).sum(-1)
    assert_close(logprobs, expected, atol=1e-5, rtol=1e-5)
    assert_close(entropy, plain_entropy, atol=1e-5, rtol=1e-5)
    for mine, theirs in ((logprobs, expected), (entropy, plain_entropy)):
        got = torch.autograd.grad(mine.sum(), [hidden, weight], retain_graph=True)
        for one, other in zip(got, torch.autograd.grad(theirs.sum(), [hidden, weight], retain_graph=True), strict=True):
            assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("logprobs", ["full", "truncated"])
def test_the_trainers_log_probabilities_equal_the_samplers(setting, tmp_path, monkeypatch, logprobs):
    """To 1e-4, before and after updates; the reference's log-probabilities are finite."""
    seen = []
    monkeypatch.setattr(ppo.train, "assess", lambda *args: seen.append(assess(*args)) or seen[-1])
    train(recipe_of(setting, f"run.dir={tmp_path}", "sampling.top_p=0.6", f"sampling.logprobs={logprobs}"))
    assert len(seen) == 3
    for assessment in seen:
        assert assessment.engine_difference.abs().max() < 1e-4
        assert assessment.ref_logprobs.isfinite().all()
    rows = read(tmp_path / "metrics.jsonl")
    assert max(row["engine_mismatch"] for row in rows) < 1e-5
    assert max(row["first_ratio_error"] for row in rows if "first_ratio_error" in row) < 1e-4
    assert rows[2]["kl"] != 0


def test_the_support_is_the_top_p_set_and_contains_the_token(setting):
    recipe = recipe_of(setting, *TRUNCATED)
    policy, engine = own_engine(recipe, setting)
    prompts = [[5, 6, 7], [8, 9]]
    request = GenerationRequest(prompts, [0, 1], 2, RandomStream.of_step(3, 1), record_supports=True)
    groups = engine.generate(request)
    for prompt, group in zip(prompts, groups, strict=True):
        for response in group:
            with torch.no_grad():
                out = policy(torch.tensor([[*prompt, *response.tokens]]), use_cache=False).logits[0]
            p = out[len(prompt) - 1 : -1].softmax(-1)
            for at, (token, support) in enumerate(zip(response.tokens, response.supports, strict=True)):
                assert token in support
                likelier = torch.tensor([p[at][p[at] > p[at][v]].sum() for v in range(p.shape[1])])
                assert set(support) == set((likelier < 0.6).nonzero()[:, 0].tolist())


def own_engine(recipe, setting, engine=OwnEngine):
    tokenizer = load_tokenizer(recipe.model.path)
    policy = load_causal(recipe.model.path, recipe.model, tokenizer, trained=True)
    policy.set_attn_implementation("sdpa")
    return policy, engine(policy, recipe.sampling, control(tokenizer).im_end, accelerator=Accelerator(cpu=True))


def test_truncated_trains_another_policy_and_resumes_bit_for_bit(setting, tmp_path):
    """Smaller micro-batches change the metrics by rounding only."""
    one, full, small = tmp_path / "one", tmp_path / "full", tmp_path / "small"
    train(recipe_of(setting, f"run.dir={one}", *TRUNCATED, "run.save_steps=1", "run.keep_checkpoints=9"))
    train(recipe_of(setting, f"run.dir={full}", "sampling.top_p=0.6"))
    assert not same(weights(one), weights(full))
    assert untimed(one)[0]["response_tokens"] == untimed(full)[0]["response_tokens"]  # the same responses
    assert untimed(one)[0]["entropy"] < untimed(full)[0]["entropy"]
    train(recipe_of(setting, f"run.dir={small}", *TRUNCATED, "ppo.micro_batch_tokens=30"))
    assert_metrics_close(one, small)
    expected, final = untimed(one), weights(one)
    for name in ("finished.json", "checkpoint-3/COMPLETE", "checkpoint-2/COMPLETE"):
        (one / name).unlink()
    train(recipe_of(setting, f"run.dir={one}", *TRUNCATED, "run.save_steps=1", "run.keep_checkpoints=9"))
    assert untimed(one) == expected
    assert same(weights(one), final)


def test_truncated_log_probabilities_need_top_p_below_1(setting):
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, "sampling.logprobs=truncated", "sampling.top_p=1.0")
    assert str(error.value) == (
        "sampling.logprobs=truncated records the tokens within sampling.top_p, which is 1 and truncates nothing; "
        "use sampling.logprobs=full"
    )


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_truncated_log_probabilities_need_an_engine_that_records_supports(setting, tmp_path, engine):
    with pytest.raises(RunError) as error:
        train(recipe_of(setting, f"run.dir={tmp_path / 'run'}", *TRUNCATED, f"sampling.engine={engine}"))
    assert str(error.value) == (
        "sampling.logprobs=truncated needs the set that each token was drawn from, which "
        f"sampling.engine={engine} does not return; use sampling.engine=own or compiled, or sampling.logprobs=full"
    )
    assert not (tmp_path / "run").exists()


def test_the_importance_cap_needs_comparable_log_probabilities(setting):
    with pytest.raises(RecipeError) as error:
        recipe_of(setting, "ppo.importance_cap=2", "sampling.engine=transformers")
    assert str(error.value) == (
        "ppo.importance_cap needs the engine's log-probabilities, and sampling.engine=transformers returns those of "
        "the full distribution at top_p 1 only; set sampling.top_p=1"
    )


def test_engine_difference_by_hand():
    rollout = Rollout([{}, {}], [Response([1, 2], True, [-1.0, -2.0]), Response([3], True, [-0.5])])
    mask = torch.tensor([[True, True], [True, False]])
    difference = engine_difference(rollout, torch.tensor([[-1.5, -1.0], [-0.5, 7.0]]), mask)
    assert_close(difference, torch.tensor([[-0.5, 1.0], [0.0, 0.0]]))
    without_logprobs = Rollout([{}], [Response([1], True, None)])
    assert engine_difference(without_logprobs, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)) is None


class WrongEngine(OwnEngine):
    """An engine whose log-probabilities are too low by log 4."""

    def generate(self, request):
        groups = super().generate(request)
        return [[Response(r.tokens, r.ended, [p - 1.3862944 for p in r.logprobs]) for r in group] for group in groups]


def test_the_importance_cap_weights_tokens_by_the_engines_error(setting, tmp_path, monkeypatch):
    """π_old / π_engine is 4 everywhere, so with a cap of 2 every term and the gradient are doubled."""
    short = ["ppo.steps=1", "ppo.value_warmup_steps=0", "ppo.epochs=1", "ppo.minibatches=1", "ppo.pretrain_coef=0",
             "data.pretrain=null"]  # fmt: skip
    train(recipe_of(setting, f"run.dir={tmp_path / 'right'}", *short, "ppo.importance_cap=2"))
    monkeypatch.setitem(ENGINES, "own", WrongEngine)
    train(recipe_of(setting, f"run.dir={tmp_path / 'wrong'}", *short))
    train(recipe_of(setting, f"run.dir={tmp_path / 'capped'}", *short, "ppo.importance_cap=2"))
    right, wrong, capped = (read(tmp_path / name / "metrics.jsonl")[0] for name in ("right", "wrong", "capped"))
    assert wrong["engine_mismatch"] == pytest.approx(1.3862944, rel=1e-4)
    assert right["policy_grad_norm"] == pytest.approx(wrong["policy_grad_norm"], rel=1e-4)
    assert capped["policy_grad_norm"] == pytest.approx(2 * right["policy_grad_norm"], rel=1e-4)


def test_a_run_with_transformers_continuous_batching(setting, tmp_path):
    overrides = ["sampling.engine=transformers", "sampling.top_p=1.0", "ppo.steps=2", "ppo.value_warmup_steps=0",
                 "sampling.batch_size=3"]  # fmt: skip
    train(recipe_of(setting, f"run.dir={tmp_path}", *overrides))
    rows = read(tmp_path / "metrics.jsonl")
    assert max(row["engine_mismatch"] for row in rows) < 1e-4
    assert ContinuousBatchingEngine.records_supports is False


def test_missing_vllm_is_reported_with_the_install_command(setting):
    recipe = recipe_of(setting, "sampling.engine=vllm")
    with pytest.raises(RunError, match=r"^sampling.engine=vllm: .*; pip install vllm, or use sampling.engine=own$"):
        VLLMEngine(torch.nn.Linear(1, 1), recipe.sampling, 1, accelerator=Accelerator(cpu=True), tokenizer=None, seed=0)


def test_supports_of_several_responses_are_concatenated(setting):
    """A token that is alone in its support has log-probability 0."""
    policy, _ = own_engine(recipe_of(setting), setting)
    supports = [[array("i", [9]), array("i", [4, 11])], [array("i", [7])]]
    with use_attention(policy, "packed"):
        out = response_logprobs(policy, [[5], [6, 7]], [[9, 11], [7]], 1.0, 100, supports)
    assert_close(out.logprobs[[0, 2]], torch.zeros(2))
    assert out.logprobs[1] < 0
    assert PPOSampling().logprobs == "full"
