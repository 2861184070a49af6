"""A model and optimiser saved by ranks under ZeRO are loaded bit for bit by other ranks under another ZeRO stage."""

import pytest
import torch
from torch.optim import AdamW

from config.sections import Model
from engine.dist.ranks import start_accelerator
from engine.dist.shard_model import accumulate_gradients, backward, gathered_weights, optimizer_step, prepare_trained
from engine.dist.sharding import sharding_of, sharding_requested
from engine.run import training_state, zero_state
from tests.support.processes import run_on_ranks
from tests.support.small_models import small_model


def prepared(seed):
    """Return an accelerator, a model and an optimiser that compute in bfloat16 with float32 trained weights."""
    accelerator = start_accelerator(0, Model(path="", dtype="bfloat16"), [], "")
    model = small_model(seed=seed, tie_word_embeddings=True).train()
    return accelerator, *prepare_trained(model, in_two_groups, 1.0, accelerator)


def in_two_groups(model):
    """Return AdamW with two parameter groups, as a Trainer makes it; under ZeRO-3 the weights are already sharded."""
    assert {not weight.numel() for weight in model.parameters()} == {sharding_requested()}
    vectors = {name for name, _ in model.named_parameters() if name.endswith(("norm.weight", "bias"))}
    tables, norms = ([p for name, p in model.named_parameters() if (name in vectors) is one] for one in (False, True))
    return AdamW([{"params": tables}, {"params": norms, "weight_decay": 0.0}], lr=1e-3)


def write(folder):
    """Take two steps and save the state."""
    accelerator, model, optimizer = prepared(0)
    for at in range(2):
        accumulate_gradients(model, True, accelerator)
        tokens = torch.arange(8)[None] + 8 * accelerator.process_index + at
        backward(model(input_ids=tokens, labels=tokens).loss, model, accelerator)
        optimizer_step(model, optimizer, 1.0, accelerator)
    training_state.save(folder, {"model": (model, optimizer)}, {}, sharding_of(accelerator))
    keep(folder / f"before-{accelerator.process_index}.pt", model, accelerator)


def read(folder):
    """Load the state into another model and optimiser."""
    accelerator, model, optimizer = prepared(1)
    training_state.load(folder, {"model": (model, optimizer)}, {}, sharding_of(accelerator))
    keep(folder / f"after-{accelerator.process_index}.pt", model, accelerator)


def keep(path, model, accelerator):
    """Save this rank's share of the trained state, and the weights that it computes with."""
    with gathered_weights(model, accelerator):
        weights = {name: weight.detach().clone() for name, weight in model.module.named_parameters()}
    torch.save((zero_state.named_tensors(model), weights), path)


def joined(shares):
    """Return the weights, moments and numbers of steps of all ranks by name."""
    found = {}
    for share, _ in shares:
        assert [len(group["params"]) for group in share["optimizer"]["param_groups"]] == [15, 11]
        found |= share["model"]
        for name, state in share["optimizer"]["state"].items():
            found |= {f"{name}.{key}": value for key, value in state.items()}
    return found


@pytest.mark.parametrize(("by", "then"), [("zero2", "zero3"), ("zero3", "zero2")])
def test_state_saved_by_two_ranks_is_loaded_bit_for_bit_by_three(tmp_path, by, then):
    run_on_ranks(write, tmp_path, processes=2, hardware=by)
    run_on_ranks(read, tmp_path, processes=3, hardware=then)
    before, after = ([torch.load(tmp_path / f"{when}-{at}.pt") for at in range(number)]
                     for when, number in (("before", 2), ("after", 3)))  # fmt: skip
    saved, loaded = joined(before), joined(after)
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)
    assert loaded["model.norm.weight.step"] == 2
    assert loaded["model.norm.weight.exp_avg"].any()
    for _, weights in [*before, *after]:
        assert all(torch.equal(weights[name], loaded[name].bfloat16()) for name in weights)
