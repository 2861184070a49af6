"""Packed rows: outputs and gradients of a sequence do not depend on the other sequences of the row."""

import ast

import pytest
import torch
from torch.testing import assert_close

from engine.forward.attention import use_attention
from engine.forward.packed import layout, pack
from tests.support.paths import ROOT
from tests.support.small_models import small_model

SEQUENCES = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
IMPLEMENTATIONS = ["packed", "sdpa", "eager"]


def test_the_layout_of_a_packed_row_by_hand():
    row = pack([[5, 6, 7], [8], [9, 10]])
    assert row["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10]]
    assert row["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]
    assert row["cu_seq_lens_q"].tolist() == [0, 3, 4, 6]
    assert row["max_length_k"] == 3
    assert row["use_cache"] is False


@pytest.mark.parametrize("lengths", [[], [2, 0]])
def test_an_empty_sequence_is_refused(lengths):
    with pytest.raises(ValueError, match="packed sequences need at least one token each"):
        layout(lengths)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_packed_logits_equal_those_of_single_sequences(family, implementation):
    model = small_model(family)
    with use_attention(model, "sdpa"):
        single = torch.cat([model(torch.tensor([s]), use_cache=False).logits[0] for s in SEQUENCES])
    with use_attention(model, implementation):
        packed = model(**pack(SEQUENCES)).logits[0]
    assert_close(packed, single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_logits_do_not_depend_on_another_sequence_of_the_row(implementation):
    model = small_model()
    with use_attention(model, implementation):
        before = model(**pack(SEQUENCES)).logits[0, 5:]
        after = model(**pack([[200, 201, 202, 203, 204], *SEQUENCES[1:]])).logits[0, 5:]
    assert torch.equal(before, after)


def test_packed_gradients_equal_those_of_single_sequences():
    model = small_model()
    with use_attention(model, "sdpa"):
        sum(model(torch.tensor([s]), use_cache=False).logits.square().sum() for s in SEQUENCES).backward()
    single = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with use_attention(model, "packed"):
        model(**pack(SEQUENCES)).logits.square().sum().backward()
    for one, other in zip(model.parameters(), single, strict=True):
        assert_close(one.grad, other, atol=1e-3, rtol=1e-4)


def test_packed_sequences_of_one_length_equal_single_ones_with_gradients():
    """They share one attention call."""
    model, sequences = small_model(), [[5, 6, 7], [8, 9, 10], [11, 12, 13]]
    with use_attention(model, "sdpa"):
        single = torch.cat([model(torch.tensor([s]), use_cache=False).logits[0] for s in sequences])
    single.square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with use_attention(model, "packed"):
        packed = model(**pack(sequences)).logits[0]
        perturbed = model(**pack([[20, 21, 22], *sequences[1:]])).logits[0]
    assert_close(packed, single, atol=1e-5, rtol=1e-5)
    assert torch.equal(packed[3:], perturbed[3:])
    packed.square().sum().backward()
    for one, other in zip(model.parameters(), expected, strict=True):
        assert_close(one.grad, other, atol=1e-3, rtol=1e-4)


def test_every_function_that_packs_is_listed_here():
    """For a new function that packs, add a test to test_packed_isolation*.py, then list it here."""
    packers = {"pack", "layout", "pack_responses", "pack_text", "pack_pairs"}
    found = set()
    for path in (
        path for folder in ("engine", "sft", "reward", "ppo", "eval") for path in (ROOT / folder).rglob("*.py")
    ):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                called = {node.func.id for node in ast.walk(function)
                          if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
                found |= {f"{path.relative_to(ROOT)}:{function.name}"} if called & packers else set()
    assert found == {
        "engine/forward/packed.py:pack",
        "engine/forward/pairs.py:pair_scores",
        "engine/forward/responses.py:_packed_on_all_ranks",
        "engine/forward/responses.py:pack_responses",
        "engine/forward/responses.py:pack_text",
        "engine/forward/responses.py:sequence_scores",
        "engine/models/self_test.py:packed_outputs",
        "ppo/minibatches.py:pack_minibatch",
        "ppo/update.py:pretrain_loss",
        "reward/train.py:collate",
        "sft/train.py:collate",
    }
